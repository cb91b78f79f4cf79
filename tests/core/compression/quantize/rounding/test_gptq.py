"""GPTQ on single matrices: a smaller error of the output than nearest values, on every grid."""

import pytest
import torch
from torch import Tensor, nn

from core.compression.matrices import as_matrix
from core.compression.quantize.rounding import gptq
from core.compression.quantize.rounding.gptq import round_and_scale, round_columns
from core.compression.quantize.rounding.row_scales import has_row_scales, rescale_rows
from core.compression.quantize.rounding.snapper import snapper_of
from core.compression.second_moments import Moments, MomentSum
from core.errors import ModelpressError
from core.network.encodings import AffineInteger, Codebook, Elementwise, Grid, Levels, packed_grid, symmetric_grid
from core.specs.rounding import Rounding

OUTPUTS, COLUMNS = 12, 32
TERNARY = Grid(-1, 1, 0, torch.int8, packed=True)


def quiet() -> None:
    """Nobody cancels."""


def draw_weight() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(OUTPUTS, COLUMNS)


def correlated_inputs(rows: int = 400) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(rows, 6) @ torch.randn(6, COLUMNS) + 0.3 * torch.randn(rows, COLUMNS)


def moments_of(inputs: Tensor) -> Moments:
    total = MomentSum(1, COLUMNS)
    total.add(inputs.unsqueeze(0), inputs.unsqueeze(0))
    return total.moments()[0]


GRIDS: dict[str, Elementwise] = {
    "integers": AffineInteger.of(draw_weight(), grid=packed_grid(3), axis=0),
    "groups": AffineInteger.of(draw_weight(), grid=packed_grid(3, group=8), axis=0),
    "asymmetric": AffineInteger.asymmetric(draw_weight(), grid=packed_grid(3, asymmetric=True), axis=0),
    "asymmetric_groups": AffineInteger.asymmetric(draw_weight(), grid=packed_grid(2, asymmetric=True, group=8), axis=0),
    "one_scale": AffineInteger.of(draw_weight(), grid=packed_grid(4), axis=None),
    "ternary": AffineInteger.of(draw_weight(), grid=TERNARY, axis=0, scale=torch.full((OUTPUTS,), 1.2)),
    "log2": Levels.log2(draw_weight(), bits=3, axis=0),
    "log2_scaled": Levels.log2(draw_weight(), bits=3, axis=0, scale=torch.full((OUTPUTS,), 1.7)),
    "binary": Levels.binary(draw_weight(), axis=0),
    "codebook": Codebook.of(draw_weight(), torch.tensor([-1.5, -0.4, 0.5, 1.6])),
    "codebooks": Codebook.of(draw_weight(), torch.randn(4, 5, generator=torch.Generator().manual_seed(0))),
}


def rounded(template: Elementwise, inputs: Tensor, asked: Rounding, mask: Tensor | None = None) -> Tensor:
    layer = nn.Linear(COLUMNS, OUTPUTS)
    grid = snapper_of(layer, template, mask)
    assert grid is not None
    return round_columns(draw_weight().unsqueeze(0), moments_of(inputs), grid, asked, quiet)[0]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("act_order", [True, False])
def test_the_output_is_nearer_than_with_nearest_values(name: str, act_order: bool) -> None:
    template, inputs, weight = GRIDS[name], correlated_inputs(), draw_weight()
    asked = Rounding(method="gptq", act_order=act_order, sweeps=0, damping=0.01)
    found = rounded(template, inputs, asked)
    assert torch.equal(template.at(found).decode(), template.project(found))
    assert torch.allclose(template.at(found).decode(), found, atol=1e-6)
    ours, nearest = (((inputs @ (weight - each).T) ** 2).mean() for each in (found, template.decode()))
    assert ours < 0.8 * nearest
    swept = rounded(template, inputs, Rounding(method="gptq", act_order=act_order, sweeps=4, damping=0.01))
    damped = moments_of(inputs).second[0].float()
    damped = damped + 0.01 * damped.diagonal().mean() * torch.eye(COLUMNS)

    def cost(each: Tensor) -> float:
        return float(((weight - each) @ damped * (weight - each)).sum())

    assert cost(swept) <= cost(found) * (1 + 1e-5)


def test_inputs_that_have_nothing_in_common_leave_nearest_values() -> None:
    template = GRIDS["integers"]
    inputs = torch.linalg.qr(torch.randn(400, COLUMNS, generator=torch.Generator().manual_seed(0))).Q * 20
    assert torch.equal(rounded(template, inputs, Rounding(method="gptq")), template.decode())


def test_what_is_masked_stays_zero_and_the_rest_makes_up_for_it() -> None:
    mask = torch.rand(OUTPUTS, COLUMNS, generator=torch.Generator().manual_seed(0)) < 0.5
    template = GRIDS["integers"]
    found = rounded(template, correlated_inputs(), Rounding(method="gptq"), mask)
    assert not found[~mask].any()
    assert found[mask].count_nonzero() > 0.5 * mask.sum()


def test_inputs_without_power_and_no_inputs_at_all_give_nearest_values() -> None:
    template = GRIDS["integers"]
    inputs = correlated_inputs()
    inputs[:, 3:7] = 0.0
    found = rounded(template, inputs, Rounding(method="gptq"))
    assert torch.equal(found[:, 3:7], template.decode()[:, 3:7])
    assert torch.isfinite(found).all()
    assert torch.equal(rounded(template, inputs * 0, Rounding(method="gptq")), template.decode())


def test_errors_of_the_inputs_and_beside_the_outputs_are_made_up_for() -> None:
    original = correlated_inputs()
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(3)) * 0.2
    inputs = original * 0.9 + noise
    beside = inputs @ torch.randn(COLUMNS, OUTPUTS, generator=torch.Generator().manual_seed(4)) * 0.05
    weight, template = draw_weight(), GRIDS["groups"]
    total = MomentSum(1, COLUMNS)
    total.add(inputs.unsqueeze(0), original.unsqueeze(0), beside.unsqueeze(0))
    grid = snapper_of(nn.Linear(COLUMNS, OUTPUTS), template, None)
    assert grid is not None
    asked = Rounding(method="gptq")
    knowing = round_columns(weight.unsqueeze(0), total.moments()[0], grid, asked, quiet)[0]
    blind = rounded(template, inputs, asked)
    wanted = original @ weight.T + beside
    errors = [((wanted - inputs @ each.T) ** 2).mean() for each in (knowing, blind)]
    assert errors[0] < 0.7 * errors[1]


def test_wide_products_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.compression.second_moments.WIDEST", 10)
    inputs, template, weight = correlated_inputs(), GRIDS["groups"], draw_weight()
    total = MomentSum(1, COLUMNS)
    total.add(inputs.unsqueeze(0), inputs.unsqueeze(0))
    parts = total.moments()
    assert [part.columns for part in parts] == [slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 32)]
    assert max(part.second.shape[-1] for part in parts) <= 10
    grid = snapper_of(nn.Linear(COLUMNS, OUTPUTS), template, None)
    assert grid is not None
    asked = Rounding(method="gptq")
    found = torch.cat([round_columns(weight.unsqueeze(0), part, grid, asked, quiet) for part in parts], -1)[0]
    assert torch.allclose(template.at(found).decode(), found, atol=1e-6)
    part = slice(8, 16)
    ours, nearest = (
        ((inputs[:, part] @ (weight - each)[:, part].T) ** 2).mean() for each in (found, template.decode())
    )
    assert ours < nearest


@pytest.mark.parametrize("name", ["integers", "groups", "asymmetric", "ternary", "log2_scaled", "binary"])
@pytest.mark.parametrize("masked", [True, False])
def test_rows_get_scales_that_fit_their_inputs(name: str, masked: bool) -> None:
    layer, template, inputs, weight = nn.Linear(COLUMNS, OUTPUTS), GRIDS[name], correlated_inputs(), draw_weight()
    assert has_row_scales(layer, template)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.8 if masked else None
    grid = snapper_of(layer, template, mask)
    assert grid is not None
    args = (weight.unsqueeze(0), moments_of(inputs), grid, Rounding(method="gptq"), quiet)
    fixed, (found, factors) = round_columns(*args)[0], round_and_scale(*args)
    assert factors.shape == (1, OUTPUTS, 1)
    stored = rescale_rows(layer, template, found, factors.squeeze(-1)).decode()
    kept = found[0] if mask is None else torch.where(mask, stored, 0.0)
    assert torch.allclose(kept, found[0], atol=1e-5)
    ours, other = (((inputs @ (weight - each).T) ** 2).mean() for each in (found[0], fixed))
    assert ours < 0.97 * other


def test_scales_that_rows_share_or_that_are_powers_of_two_stay() -> None:
    layer = nn.Linear(COLUMNS, OUTPUTS)
    halves = torch.full((OUTPUTS,), 0.5)
    power = AffineInteger.of(draw_weight(), grid=packed_grid(3), axis=0, scale=halves)
    fine = AffineInteger.of(draw_weight(), grid=symmetric_grid(8), axis=0)
    kept = [power, fine, *(GRIDS[name] for name in ("one_scale", "codebooks", "log2"))]
    assert not any(has_row_scales(layer, each) for each in kept)
    shared = nn.ConvTranspose1d(4, 6, 3, groups=2)
    weight = shared.weight.detach()
    assert not has_row_scales(shared, AffineInteger.of(weight, grid=packed_grid(3), axis=1))
    own = nn.ConvTranspose1d(4, 3, 3)
    template = AffineInteger.of(own.weight.detach(), grid=packed_grid(3), axis=1)
    assert has_row_scales(own, template)
    values = as_matrix(own, template.decode()) * 2
    assert torch.allclose(
        as_matrix(own, rescale_rows(own, template, values, torch.full((1, 3), 2.0)).decode()), values, atol=1e-6
    )


def test_a_layer_of_zeros_keeps_its_scales() -> None:
    layer, template = nn.Linear(COLUMNS, OUTPUTS), GRIDS["integers"]
    grid = snapper_of(layer, template, None)
    assert grid is not None
    args = (torch.zeros(1, OUTPUTS, COLUMNS), moments_of(correlated_inputs() * 0), grid)
    found, factors = round_and_scale(*args, Rounding(method="gptq"), quiet)
    assert not found.any()
    assert bool((factors == 1).all())


def test_a_cancel_is_noticed_within_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "_BLOCK", 8)
    ticks: list[None] = []
    layer = nn.Linear(COLUMNS, OUTPUTS)
    grid = snapper_of(layer, GRIDS["integers"], None)
    assert grid is not None
    asked = Rounding(method="gptq", sweeps=2)
    round_columns(draw_weight().unsqueeze(0), moments_of(correlated_inputs()), grid, asked, lambda: ticks.append(None))
    assert len(ticks) == 3 * COLUMNS // 8


def test_inputs_whose_squares_are_no_numbers_are_told() -> None:
    with pytest.raises(ModelpressError, match="squares are no numbers"):
        moments_of(correlated_inputs() * 1e22)
