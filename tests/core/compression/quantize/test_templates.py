import itertools

import pytest
import torch
from torch import nn

from core.compression.quantize.scale_search import ternary_scales
from core.compression.quantize.templates import make_template
from core.errors import ModelpressError
from core.network.encodings import AffineInteger
from core.specs.linear import WeightGrid

LAYER = nn.Conv2d(4, 6, 3)


@pytest.fixture
def weight() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 4, 3, 3) * torch.logspace(-2, 0, 6).reshape(-1, 1, 1, 1)


def error(made: AffineInteger, weight: torch.Tensor) -> float:
    return float((made.decode().double() - weight.double()).square().sum())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale", ["float", "power_of_two"])
@pytest.mark.parametrize("per", ["tensor", "channel", "group"])
def test_every_grid_takes_its_bits(weight: torch.Tensor, bits: int, symmetric: bool, scale: str, per: str) -> None:
    group = {"group_size": 12} if per == "group" else {}
    made = make_template(LAYER, weight, WeightGrid(bits=bits, symmetric=symmetric, scale=scale, per=per, **group))
    assert made.name.startswith("uint") is not symmetric
    counted = made.bytes()
    assert counted.weights == -(-weight.numel() * bits // 8)
    assert made.scale.numel() == {"tensor": 1, "channel": 6, "group": 18}[per]
    values = (
        {round(float(each), 9) for each in (made.decode() / made.scale.max()).flatten()} if per == "tensor" else {0}
    )
    assert len(values) <= 2**bits
    # A weight that is zero stays zero: masks and padding rest on it.
    zeroed = weight.clone()
    zeroed[:, 1] = 0
    assert not made.at(zeroed).decode()[:, 1].any()
    if scale == "power_of_two":
        assert torch.equal(torch.log2(made.scale), torch.log2(made.scale).round())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_few_bits_have_the_scale_of_the_least_error(weight: torch.Tensor, bits: int, symmetric: bool) -> None:
    asked = WeightGrid(bits=bits, symmetric=symmetric, per="channel")
    made = make_template(LAYER, weight, asked)
    for share in (0.8, 0.95, 1.05, 1.25):
        # With few weights and a zero point the error has many valleys; a search ends in one of the best.
        assert error(made, weight) <= error(made.rescaled(weight, made.scale * share), weight) * (
            1 if symmetric else 1.02
        )


def test_ternary_scales_are_the_optimum() -> None:
    torch.manual_seed(1)
    rows = torch.randn(5, 9).double()
    found = ternary_scales(rows)
    for row, scale in zip(rows, found, strict=True):
        kept = (row.abs().unsqueeze(0) >= row.abs().unsqueeze(1)).double()
        means = (kept * row.abs()).sum(1) / kept.sum(1)
        best = min(float((row.abs() - keep * mean).square().sum()) for keep, mean in zip(kept, means, strict=True))
        rounded = (row / scale).round().clamp(-1, 1) * scale
        assert float((row - rounded).square().sum()) == pytest.approx(best)


def test_powers_of_two_are_the_best_of_their_kind(weight: torch.Tensor) -> None:
    for bits in (3, 5, 8):
        made = make_template(LAYER, weight, WeightGrid(bits=bits, scale="power_of_two", per="channel"))
        for factor in (0.5, 2.0):
            assert error(made, weight) <= error(made.rescaled(weight, made.scale * factor), weight)


@pytest.mark.parametrize(("bits", "symmetric"), list(itertools.product([2, 4, 8], [True, False])))
@pytest.mark.parametrize("value", [0.0, 0.3, -7.0, 1e-42, 1e30])
def test_weights_that_are_all_equal(bits: int, symmetric: bool, value: float) -> None:
    weight = torch.full((6, 4, 3, 3), value)
    for per in ("tensor", "channel"):
        decoded = make_template(LAYER, weight, WeightGrid(bits=bits, symmetric=symmetric, per=per)).decode()
        assert torch.allclose(decoded, weight, rtol=1e-3, atol=1e-37)


def test_dead_channels_stay_dead(weight: torch.Tensor) -> None:
    weight[2] = 0
    made = make_template(LAYER, weight, WeightGrid(bits=4, per="channel"))
    assert not made.decode()[2].any()
    assert bool(torch.isfinite(made.scale).all())


def test_what_leaves_fp32_is_refused(weight: torch.Tensor) -> None:
    weight[0] = 3.4e38
    weight[0, 0] = -3.4e38
    with pytest.raises(ModelpressError) as caught:
        make_template(LAYER, weight, WeightGrid(bits=2, symmetric=False, per="tensor"))
    assert caught.value.code == "non_finite"


def test_a_large_table_is_rounded_row_by_row() -> None:
    torch.manual_seed(2)
    table = nn.Embedding(9000, 600)
    made = make_template(table, table.weight, WeightGrid(bits=8))
    assert made.scale.shape == (9000,)
    rows = table.weight.detach()[8990:]
    assert torch.equal(made.decode()[8990:], make_template(table, rows, WeightGrid(bits=8)).decode())


def test_transposed_convolutions_have_their_channels_along_the_second_axis() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3)
    made = make_template(layer, layer.weight, WeightGrid(bits=4))
    assert (made.axis, made.scale.shape) == (1, (6,))
