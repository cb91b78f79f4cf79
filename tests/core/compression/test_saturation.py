"""Saturation: the exact integer reference, the model of the pairs' kernel, and what is chosen where it bites."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.compression.quantize.assembly import Plan, assemble, placement_of
from core.compression.quantize.calibration import watch
from core.compression.quantize.integers import HIGHEST_16, IntegerNetwork, _loss_of_rows
from core.compression.quantize.linear import _answer_of_file
from core.compression.quantize.ranges import choose_range
from core.compression.quantize.saturation import GRIDS, kernels_saturate, predict_cut
from core.compression.quantize.templates import make_template
from core.compression.quantize.weights import Trial, choose_grid, repeat_grid
from core.compression.yardstick import Yardstick, input_batches
from core.data.dataset import Dataset
from core.network.encodings import Grid
from core.network.export_check import relative_difference
from core.network.inspect import read
from core.network.network import Network
from core.specs.calibration import Calibration
from core.specs.linear import ActivationGrid, WeightGrid
from tests.core.compression.conftest import save

LAYERS = frozenset({"stem", "one.conv1", "one.conv2", "one.short", "two.conv1", "two.conv2", "two.short", "fc1", "fc2"})


@pytest.fixture
def build(residual: Network, images: Dataset) -> Callable[[Grid], Network]:
    # Large weights side by side and activations at the top of their range: what saturates.
    for path in ("two.conv1", "fc1"):
        weight = residual.graph.get_submodule(path).get_parameter("weight")
        weight.data = weight.abs().amax() * torch.sign(weight)
    sources = placement_of(residual, LAYERS).sources
    histograms = watch(residual.graph, sources, input_batches(residual, images, "calibration", limit=128))
    ranges = {source: choose_range(found, Calibration(method="minmax")) for source, found in histograms.items()}

    def make(grid: Grid) -> Network:
        layers = {path: residual.graph.get_submodule(path) for path in LAYERS}
        weights = {
            path: make_template(each, each.get_parameter("weight"), WeightGrid(), grid=grid)
            for path, each in layers.items()
        }
        return assemble(residual, Plan(LAYERS, weights, LAYERS, ranges=ranges))

    return make


@pytest.fixture
def inputs(residual: Network, images: Dataset) -> tuple[Tensor, ...]:
    return next(input_batches(residual, images, "calibration", limit=16, batch=16))


def exact(network: Network, inputs: tuple[Tensor, ...]) -> Tensor:
    return IntegerNetwork(network, "exact").answer(inputs)


def cut(network: Network, inputs: tuple[Tensor, ...]) -> Tensor:
    return IntegerNetwork(network, "pairs_of_16_bits").answer(inputs)


def test_the_file_equals_the_exact_integers_where_products_are_exact(
    build: Callable[[Grid], Network], inputs: tuple[Tensor, ...]
) -> None:
    for choice in ("full_range", "unsigned") if not kernels_saturate() else ("seven_bit", "unsigned"):
        network = build(GRIDS[choice])
        found = _answer_of_file(network, inputs, 1)
        assert relative_difference(found.numpy(), exact(network, inputs).numpy()) < 0.01


def test_the_kernel_model_cuts_pairs_at_16_bits() -> None:
    rows = torch.tensor([[255.0, 255.0, 255.0, 255.0], [128.0, 128.0, 0.0, 255.0]], dtype=torch.float64)
    weight = torch.tensor([[127.0, 127.0, -128.0, -128.0], [127.0, 127.0, 0.0, 1.0]], dtype=torch.float64)
    high, low = 2 * 255 * 127 - HIGHEST_16, -2 * 255 * 128 + 32768
    assert _loss_of_rows(rows, weight).tolist() == [[high + low, high], [0.0, 0.0]]


def test_seven_bits_cannot_be_cut_and_eight_bits_are(
    build: Callable[[Grid], Network], inputs: tuple[Tensor, ...]
) -> None:
    found = predict_cut(build(GRIDS["full_range"]), inputs)
    assert found is not None
    assert found.share > 0
    assert predict_cut(build(GRIDS["seven_bit"]), inputs) is None
    assert predict_cut(build(GRIDS["unsigned"]), inputs) is None


def trial(build: Callable[[Grid], Network], run: Callable[[Network], Tensor], given: object) -> Trial:
    residual, images, inputs = given
    return Trial(build, run, inputs, Yardstick(residual, images, split="validation", limit=100))


def test_on_an_exact_cpu_all_bits_are_kept_and_the_danger_elsewhere_is_told(
    build: Callable[[Grid], Network], inputs: tuple[Tensor, ...], residual: Network, images: Dataset
) -> None:
    given = (residual, images, inputs)
    chosen = choose_grid("auto", trial(build, lambda network: exact(network, inputs), given), saturates=False)
    assert chosen.choice == "full_range"
    assert chosen.finding is not None
    assert chosen.finding.code == "saturates_without_vnni"


def test_on_a_cpu_that_cuts_a_safe_grid_is_chosen_and_said(
    build: Callable[[Grid], Network], inputs: tuple[Tensor, ...], residual: Network, images: Dataset
) -> None:
    # The runtime is the model of the kernel that such a CPU has.
    given = (residual, images, inputs)
    chosen = choose_grid("auto", trial(build, lambda network: cut(network, inputs), given), saturates=True)
    assert chosen.choice in ("seven_bit", "unsigned")
    assert chosen.difference < 1e-6
    assert chosen.finding is not None
    assert chosen.finding.code == "saturation_avoided"
    assert chosen.choice.split("_")[0] in chosen.finding.text.replace("7-bit", "seven")


def test_a_forced_full_range_that_saturates_is_a_problem(
    build: Callable[[Grid], Network], inputs: tuple[Tensor, ...], residual: Network, images: Dataset
) -> None:
    given = (residual, images, inputs)
    chosen = choose_grid("full_range", trial(build, lambda network: cut(network, inputs), given), saturates=True)
    assert chosen.choice == "full_range"
    assert chosen.finding is not None
    assert chosen.finding.code == "saturates_here"


def test_a_plan_is_followed_and_what_this_cpu_makes_of_it_is_said(
    build: Callable[[Grid], Network], inputs: tuple[Tensor, ...], residual: Network, images: Dataset
) -> None:
    given = (residual, images, inputs)
    right = trial(build, lambda network: exact(network, inputs), given)
    wrong = trial(build, lambda network: cut(network, inputs), given)
    for one, saturates, code in ((right, False, "saturates_without_vnni"), (wrong, True, "saturation_avoided")):
        first = choose_grid("auto", one, saturates=saturates)
        again = repeat_grid(first.choice, first.why, one, saturates=saturates)
        assert (again.choice, again.why, again.difference) == (first.choice, first.why, first.difference)
        assert again.finding == first.finding
        assert again.finding is not None
        assert again.finding.code == code
    # A plan of a CPU that computes exactly, on one that does not.
    first = choose_grid("auto", right, saturates=False)
    moved = repeat_grid(first.choice, first.why, wrong, saturates=True)
    assert moved.choice == "full_range"
    assert moved.difference > 0
    assert moved.finding is not None
    assert moved.finding.code == "saturates_here"


def test_products_that_are_rounded_in_every_run_are_seen_too(residual: Network, inputs: tuple[Tensor, ...]) -> None:
    weight = residual.graph.get_parameter("fc1.weight")
    weight.data = weight.abs().amax() * torch.sign(weight)
    for bits, cuts in ((8, True), (7, False)):
        template = make_template(residual.graph.get_submodule("fc1"), weight, WeightGrid(bits=bits))
        fc1 = frozenset({"fc1"})
        made = assemble(residual, Plan(fc1, {"fc1": template}, fc1, ActivationGrid(mode="dynamic")))
        with torch.no_grad():
            assert torch.allclose(exact(made, inputs), made.graph(*inputs), rtol=1e-4, atol=1e-5)
        found = predict_cut(made, inputs)
        assert (found is not None and found.layer == "fc1") is cuts


class Gated(nn.Module):
    """A convolution on integers, and behind a sigmoid a product whose input is not rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.sigmoid(self.conv(x)).flatten(1))


def test_the_exact_reference_rounds_no_more_than_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = torch.randn(16, 2, 8)
    network = read(save(Gated(), given, tmp_path / "gated.pt2"))
    layers = {path: network.graph.get_submodule(path) for path in ("conv", "fc")}
    weights = {path: make_template(each, each.get_parameter("weight"), WeightGrid()) for path, each in layers.items()}
    conv = frozenset({"conv"})
    sources = placement_of(network, conv).sources
    made = assemble(network, Plan(frozenset(layers), weights, conv, ranges=dict.fromkeys(sources, (-3.0, 3.0))))
    with torch.no_grad():
        assert torch.allclose(exact(made, (given,)), made.graph(given), rtol=1e-4, atol=1e-5)
