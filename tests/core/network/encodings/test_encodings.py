import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from core.network.encodings import ActivationGrid, AffineInteger, Dense, Emission, Encoding, Levels, symmetric_grid
from tests.core.network.encodings.cases import sample

GRIDS = {"int8": symmetric_grid(8), "int7 in int8": symmetric_grid(7), "uint8": symmetric_grid(8, unsigned=True)}


def emitted(encoding: Encoding, flavour: str, *, transposed: bool = False) -> torch.Tensor:
    module = fx.GraphModule({"conv": nn.Module()}, fx.Graph())
    module.add_submodule("conv", nn.Module())
    emission = Emission(module, "conv.weight")
    emission.fused, emission.transposed = True, transposed
    node = encoding.emit_onnx(emission) if flavour == "onnx" else encoding.emit_pt2(emission)
    module.graph.output(node)
    module.recompile()
    return module()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_affine_is_within_half_a_step_and_says_its_name(name: str, axis: int | None) -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    encoding = AffineInteger.of(weight, grid=GRIDS[name], axis=axis)
    step = encoding.scale.max()
    assert encoding.name == name
    assert (encoding.decode() - weight).abs().max() <= step / 2 * 1.0001
    grid = GRIDS[name]
    assert encoding.integers.dtype is grid.storage
    assert int(encoding.integers.min()) >= grid.low
    assert int(encoding.integers.max()) <= grid.high


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("flavour", ["onnx", "pt2"])
def test_what_is_emitted_computes_what_is_decoded(name: str, flavour: str) -> None:
    encoding = AffineInteger.of(torch.randn(4, 3, 2, 2), grid=GRIDS[name], axis=0)
    assert torch.equal(emitted(encoding, flavour), encoding.decode())
    assert torch.equal(emitted(Dense(torch.ones(2)), flavour), torch.ones(2))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(sorted(GRIDS)))
def test_project_is_idempotent_and_lands_on_the_grid(seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 7, generator=generator) * 10.0 ** float(torch.randint(-6, 6, (1,), generator=generator))
    encoding = AffineInteger.of(weight, grid=GRIDS[name], axis=0)
    moved = encoding.project(weight + 0.1 * weight.abs().max() * torch.randn(3, 7, generator=generator))
    assert torch.equal(encoding.project(moved), moved)
    assert torch.equal(encoding.project(encoding.decode()), encoding.decode())


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    assert torch.equal(AffineInteger.of(weight, grid=symmetric_grid(8), axis=0).decode()[0], torch.zeros(2))


def test_scales_of_levels_are_those_of_the_papers() -> None:
    weight = torch.tensor([[0.1, -0.2, 0.3, -1.6], [0.5, 0.1, -0.7, 0.02]])
    # Equation 2 of arXiv 1702.03044: 2 for 1.6, since 4 · 1.6 / 3 is above 2, and 0.5 for 0.7.
    powers = Levels.log2(weight, bits=3, axis=0)
    assert torch.equal(powers.scale, torch.tensor([2.0, 0.5]))
    assert torch.equal(powers.decode(), torch.tensor([[0.0, 0.0, 0.5, -2.0], [0.5, 0.125, -0.5, 0.0]]))
    # Equation 6 of arXiv 1603.05279: the mean magnitude.
    assert torch.allclose(Levels.binary(weight, axis=0).scale, torch.tensor([0.55, 0.33]))
    assert torch.allclose(Levels.binary(weight, axis=None).decode(), weight.sign() * 0.44)


@pytest.mark.parametrize(("bits", "per_octave", "needed"), [(2, 1, 2), (7, 1, 7), (8, 1, 7), (8, 2, 8), (8, 8, 8)])
def test_levels_of_many_bits_stay_within_fp32(bits: int, per_octave: int, needed: int) -> None:
    weight = sample((6, 50)) * 1e-6
    made = Levels.log2(weight, bits=bits, axis=0, per_octave=per_octave)
    assert made.bits == needed
    powers = made.levels[made.levels > 0]
    assert float(powers.min()) >= 2.0**-62
    assert torch.allclose(powers[1:] / powers[:-1], torch.tensor(2.0 ** (1 / per_octave)), rtol=1e-5)
    assert torch.equal(made.levels, -made.levels.flip(0))
    # Between two levels whose ratio is r the error is at most (r − 1) / (r + 1) of the weight.
    kept = (weight.abs() > powers.min() * made.scale.unsqueeze(1)) & (weight.abs() < made.scale.unsqueeze(1))
    ratio = 2.0 ** (1 / per_octave)
    error = (made.decode() - weight).abs()[kept] / weight.abs()[kept]
    assert bool((error <= (ratio - 1) / (ratio + 1) + 1e-5).all())


def test_bytes_are_those_of_the_stored_tensors() -> None:
    for encoding in (
        Dense(torch.zeros(3, 5)),
        AffineInteger.of(torch.randn(3, 5), grid=symmetric_grid(8), axis=0),
        AffineInteger.of(torch.randn(3, 5), grid=symmetric_grid(8), axis=None),
    ):
        stored = sum(tensor.numel() * tensor.element_size() for tensor in encoding.stored().values())
        assert sum(encoding.bytes().model_dump().values()) == stored


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_transposed_matrix_takes_its_channel_axis_along(axis: int | None) -> None:
    encoding = AffineInteger.of(torch.randn(4, 3), grid=symmetric_grid(8), axis=axis)
    assert torch.equal(emitted(encoding, "onnx", transposed=True), encoding.decode().t())
    assert torch.equal(emitted(Dense(torch.ones(2, 3)), "onnx", transposed=True), torch.ones(3, 2))


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-3.0, 1.0), (2.0, 5.0), (-4.0, -1.0)])
def test_an_activation_grid_holds_zero_exactly_and_its_ends(low: float, high: float) -> None:
    grid = ActivationGrid.of_range(low, high)
    assert float(grid(torch.tensor(0.0))) == 0.0
    x = torch.linspace(min(low, 0.0), max(high, 0.0), 100)
    assert (grid(x) - x).abs().max() <= grid.scale * 0.51
    assert torch.equal(grid(torch.tensor([-1e9, 1e9])), grid(torch.tensor([min(low, 0.0), max(high, 0.0)])))


def test_the_grid_of_a_dead_value_is_harmless() -> None:
    grid = ActivationGrid.of_range(0.0, 0.0)
    assert float(grid(torch.tensor(0.0))) == 0.0
    assert bool(torch.isfinite(grid(torch.tensor([-1e30, 1e30]))).all())
