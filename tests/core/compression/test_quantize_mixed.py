"""Mixed precision: bits follow what layers cost, budgets hold in the file, plans are repeated, bad input is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.compression.candidates import find_candidates
from core.compression.context import Context
from core.compression.method import Report
from core.compression.quantize import width_choice
from core.compression.quantize.decision import Decision
from core.compression.quantize.layer_times import LayerTimes
from core.compression.quantize.mixed import MixedQuantizer
from core.compression.quantize.time_choice import share_out
from core.compression.quantize.width_costs import measure_costs
from core.compression.quantize.widths import Widths
from core.compression.yardstick import Yardstick
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.measure.size import itemise_bytes
from core.messages import Message, MetricMessage
from core.network.describe import describe
from core.network.encodings import ActivationGrid, AffineInteger
from core.network.export import export_onnx
from core.network.inspect import read
from core.network.network import Network
from core.specs.mixed import FLOAT_BITS, Budget, MixedQuantization, SharedGrid
from core.specs.rounding import Rounding
from core.verdict import Sensitivity
from tests.core.compression.conftest import IMAGES, SHAPE, save

MakeContext = Callable[..., Context]
LAYERS = {"conv1", "conv2", "fc1", "fc2"}


class Uneven(nn.Module):
    """Layers with few large weights among many small ones lose much with few bits, and the others little."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.fc1, self.fc2 = nn.Linear(12 * 9, 16), nn.Linear(16, 4)
        for layer in (self.conv1, self.fc2):
            layer.weight.data = layer.weight.data**3
            layer.weight.data *= 2 / layer.weight.data.norm()
        self.fc2.weight.data *= 10

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x)))).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


@pytest.fixture(scope="module")
def uneven_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    return save(Uneven(), torch.randn(2, *SHAPE), tmp_path_factory.mktemp("models") / "uneven.pt2")


@pytest.fixture
def uneven(uneven_file: Path) -> Network:
    return read(uneven_file)


def ask(**fields: Any) -> MixedQuantization:
    return MixedQuantization(**{"budget": Budget(average_bits=4), "bits": (2, 3, 4, 6), "samples": 32} | fields)


def apply(network: Network, spec: MixedQuantization, context: Context) -> tuple[Network, Report, Decision]:
    made, report = MixedQuantizer().apply(network, spec, context)
    return made, report, Decision.model_validate(report.plan["decision"])


def bits_of(network: Network, layer: str) -> int:
    encoding = network.encodings.get(f"{layer}.weight")
    return encoding.grid.bits if isinstance(encoding, AffineInteger) else FLOAT_BITS


def mean_bits(network: Network, decision: Decision) -> float:
    counts = {path: network.graph.get_submodule(path).get_parameter("weight").numel() for path in decision.bits}
    return sum(counts[path] * bits for path, bits in decision.bits.items()) / sum(counts.values())


@pytest.mark.parametrize("sensitivity", ["sqnr", "measured", "fisher", "hessian"])
def test_bits_are_those_that_were_chosen_and_keep_to_their_mean(
    uneven: Network, context: MakeContext, sensitivity: str
) -> None:
    made, report, decision = apply(uneven, ask(sensitivity=sensitivity), context())
    assert set(decision.bits) == LAYERS
    assert {layer: bits_of(made, layer) for layer in LAYERS} == decision.bits
    assert 3 < mean_bits(uneven, decision) <= 4
    assert len(set(decision.bits.values())) > 1
    assert set(report.layers) == set(decision.rounded)
    assert {"bits_by_layer"} == {finding.code for finding in report.findings}
    assert all(found.sqnr_db is not None for found in report.sensitivities.values())
    for path in decision.floats:
        assert torch.equal(made.graph.get_parameter(f"{path}.weight"), uneven.graph.get_parameter(f"{path}.weight"))


def test_a_layer_gets_no_more_bits_than_it_needs(uneven: Network, context: MakeContext) -> None:
    spec = ask(budget=Budget(average_bits=3.5), allow_float=False)
    _, _, before = apply(uneven, spec, context())
    weight = uneven.graph.get_parameter("conv2.weight")
    weight.data = weight.data.sign() * 0.1
    _, _, after = apply(uneven, spec, context())
    assert before.bits["conv2"] > after.bits["conv2"] == 2
    assert mean_bits(uneven, after) > 3
    assert before.costs["conv1"][2] > before.costs["conv1"][6] * 10


@pytest.mark.parametrize("share", [0.15, 0.25])
def test_a_budget_of_bytes_holds_in_the_file_to_the_byte_that_was_told(
    uneven: Network, context: MakeContext, images: Dataset, tmp_path: Path, share: float
) -> None:
    floats = sum(parameter.numel() * 4 for parameter in uneven.graph.parameters())
    budget = int(floats * share)
    made, _, decision = apply(uneven, ask(budget=Budget(bytes=budget)), context())
    probes = (next(images.batches("evaluation", 16)).inputs["x"],)
    export_onnx(made, tmp_path / "model.onnx", probes=probes)
    items = itemise_bytes(tmp_path / "model.onnx")
    told = next(each.bytes for each in decision.contest if each.name == decision.chosen)
    assert told <= budget
    assert items.weights + items.scales + items.biases == told
    assert told > 0.8 * budget


def test_the_choice_is_better_than_equal_bits(uneven: Network, context: MakeContext, images: Dataset) -> None:
    made, _, decision = apply(uneven, ask(budget=Budget(average_bits=3.5)), context())
    mixed, equal, above = decision.contest
    assert (mixed.name, equal.name, above.name) == ("mixed", "3 bits for all", "4 bits for all")
    assert equal.bytes < mixed.bytes < above.bytes
    assert mixed.predicted < equal.predicted
    yardstick = Yardstick(uneven, images, split="evaluation", limit=200, labelled=False)
    widths = Widths(
        uneven, find_candidates(uneven, (), takes=frozenset({"dense"}))[0], SharedGrid(), (3,), floats=False
    )
    assert yardstick.score(made).loss < yardstick.score(widths.encode(dict.fromkeys(LAYERS, 3))).loss


def test_equal_bits_are_kept_where_they_are_better(
    uneven: Network, context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(widths: Widths, *_: object) -> dict[str, dict[int, float]]:
        # The layers that lose most with few bits are said to lose nothing.
        return {
            path: dict.fromkeys(widths.bits, 0.0)
            if path in ("conv1", "fc2")
            else {bits: 1 / bits for bits in widths.bits}
            for path in widths.paths
        }

    monkeypatch.setattr(width_choice, "measure_costs", mistake)
    _, report, decision = apply(uneven, ask(budget=Budget(average_bits=3), allow_float=False), context())
    assert set(decision.bits.values()) == {3}
    assert "equal_bits_kept" in {finding.code for finding in report.findings}
    assert (decision.contest[0].moved or 0) > (decision.contest[1].moved or 0)
    assert decision.chosen == "3 bits for all"


def test_the_curve_falls_and_is_told_as_metrics(uneven: Network, context: MakeContext, told: list[Message]) -> None:
    _, _, decision = apply(uneven, ask(), context())
    points = [(point.bytes, point.predicted) for point in decision.curve]
    assert len(points) > 5
    assert points == sorted(points)
    assert [each for _, each in points] == sorted((each for _, each in points), reverse=True)
    metrics = [each for each in told if isinstance(each, MetricMessage) and each.name == "predicted_cost"]
    assert [(each.at, each.value) for each in metrics] == points


def test_a_plan_is_repeated_without_measuring(uneven: Network, context: MakeContext, told: list[Message]) -> None:
    spec = ask(rounding=Rounding(method="nearest"))
    made, report, decision = apply(uneven, spec, context())
    plan = json.loads(json.dumps(report.plan))
    plan["decision"]["bits"]["conv1"] = 5
    again, repeated, followed = apply(uneven, spec, replace(context(), recorded=plan))
    assert followed.bits == decision.bits | {"conv1": 5}
    assert bits_of(again, "conv1") == 5
    assert repeated.findings == report.findings
    same, _, _ = apply(uneven, spec, replace(context(), recorded=json.loads(json.dumps(report.plan))))
    assert all(torch.equal(value, made.graph.state_dict()[name]) for name, value in same.graph.state_dict().items())
    wrongs: tuple[dict[str, Any], ...] = (
        {},
        {"decision": {"bits": {"conv1": 4}}},
        {"decision": {"bits": decision.bits | {"conv1": 1}}},
    )
    for wrong in wrongs:
        with pytest.raises(ModelpressError) as caught:
            MixedQuantizer().apply(uneven, spec, replace(context(), recorded=wrong))
        assert caught.value.code == "invalid_request"


def test_a_budget_below_the_least_gets_the_least_and_a_finding(uneven: Network, context: MakeContext) -> None:
    spec = ask(budget=Budget(bytes=300))
    _, report, decision = apply(uneven, spec, context())
    assert set(decision.bits.values()) == {2}
    (finding,) = [each for each in report.findings if each.code == "budget_missed"]
    assert "300" in finding.text


def test_activations_are_rounded_where_that_is_asked_for(uneven: Network, context: MakeContext) -> None:
    made, _, decision = apply(uneven, ask(activations={"bits": 8}), context())
    assert any(isinstance(module, ActivationGrid) for module in made.graph.modules())
    assert {layer: bits_of(made, layer) for layer in LAYERS} == decision.bits


def test_a_budget_of_time_leaves_floats_where_integers_cost_most_for_their_time() -> None:
    times = LayerTimes({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 0.25, "c": 2.0}, 0.5)
    found = {"a": Sensitivity(sqnr_db=30.0, loss_increase=0.0), "b": Sensitivity(sqnr_db=20.0, loss_increase=0.5)}
    found["c"] = Sensitivity(sqnr_db=50.0, loss_increase=0.0)
    for budget, bits in (
        (3.5, (32, 32, 32)),
        (3.0, (8, 32, 32)),
        (2.8, (32, 8, 32)),
        (2.3, (8, 8, 32)),
        (1.0, (8, 8, 32)),
    ):
        decision = share_out(times, found, ask(budget=Budget(latency_ms=budget)))
        assert tuple(decision.bits.values()) == bits
        assert [finding.code for finding in decision.findings()] == ["budget_missed" if budget < 2 else "bits_by_layer"]
    assert share_out(times, found, ask(budget=Budget(speedup=3.5 / 3.0))).bits["a"] == 8
    # What gives no numbers on integers, or is slower there, stays; what was not tried costs nothing.
    broken = {"a": Sensitivity(sqnr_db=-200.0)}
    assert share_out(times, broken, ask(budget=Budget(latency_ms=0.1))).rounded == {"b": 8}


def test_layers_are_timed_in_the_runtime(uneven: Network, context: MakeContext) -> None:
    made, report, decision = apply(uneven, ask(budget=Budget(latency_ms=0.001)), context())
    assert set(decision.times) == LAYERS
    assert all(one >= 0 for one, _ in decision.times.values())
    assert sum(one for one, _ in decision.times.values()) > 0
    assert "budget_missed" in {finding.code for finding in report.findings}
    assert any(isinstance(module, ActivationGrid) for module in made.graph.modules()) == bool(decision.rounded)


def test_a_budget_that_floats_keep_to_changes_nothing(uneven: Network, context: MakeContext) -> None:
    made, report, decision = apply(uneven, ask(budget=Budget(average_bits=32)), context())
    assert made is uneven
    assert not report.layers
    assert set(decision.floats) == LAYERS


def test_without_labels_the_same_is_chosen(uneven: Network, context: MakeContext, images_file: Path) -> None:
    spec = DatasetSpec(task="classification", splits={"train": SplitArrays(x="x"), "evaluation": SplitArrays(x="tx")})
    plain = replace(context(), dataset=open_dataset([images_file], spec, uneven.inputs))
    assert IMAGES.splits != spec.splits
    _, _, one = apply(uneven, ask(), context())
    _, _, other = apply(uneven, ask(), plain)
    assert one.costs == other.costs
    assert one.bits == other.bits


def test_weights_that_are_shared_stay_as_they_are(attention_file: Path, context: MakeContext, tmp_path: Path) -> None:
    network = read(attention_file)
    np.savez(tmp_path / "ids.npz", x=np.random.default_rng(0).integers(0, 11, (200, 10)))
    spec = DatasetSpec(task="language_modelling", splits={"train": SplitArrays(x="x")})
    dataset = open_dataset([tmp_path / "ids.npz"], spec, network.inputs, outputs=network.outputs)
    made, report, decision = apply(network, ask(), replace(context(), dataset=dataset))
    assert set(decision.bits) == {"qkv", "out", "mlp1", "mlp2"}
    assert {"emb", "head"} & set(report.layers) == set()
    assert "emb.weight" not in made.encodings


def test_one_layer_and_one_width(uneven: Network, context: MakeContext) -> None:
    others = tuple(LAYERS - {"fc1"})
    made, _, decision = apply(uneven, ask(bits=(4,), keep_float=others, allow_float=False), context())
    assert decision.bits == {"fc1": 4}
    assert [bits_of(made, layer) for layer in others] == [FLOAT_BITS] * 3
    with pytest.raises(ModelpressError) as caught:
        apply(uneven, ask(keep_float=tuple(LAYERS)), context())
    assert caught.value.code == "unsupported_layer"


def test_costs_that_are_no_numbers_are_told(
    uneven: Network, context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(widths: Widths, *_: object) -> dict[str, dict[int, float]]:
        return {
            path: {bits: float("inf") if path == "conv1" and bits < 8 else 1 / bits for bits in widths.bits}
            for path in widths.paths
        }

    monkeypatch.setattr(width_choice, "measure_costs", broken)
    _, _, decision = apply(uneven, ask(), context())
    assert decision.bits["conv1"] >= 8
    assert decision.costs["conv1"][4] is None
    # Equal bits beyond the budget are told of, though nothing is predicted of them; the plan is JSON and is repeated.
    _, report, decision = apply(uneven, ask(bits=(3, 6), budget=Budget(average_bits=5.5)), context())
    assert [each.predicted for each in decision.contest][1:] == [None]
    plan = json.loads(json.dumps(report.plan, allow_nan=False))
    _, _, again = apply(uneven, ask(bits=(3, 6), budget=Budget(average_bits=5.5)), replace(context(), recorded=plan))
    assert again == decision
    with pytest.raises(ModelpressError) as caught:
        apply(uneven, ask(bits=(2, 4), allow_float=False), context())
    assert caught.value.code == "non_finite"


def test_fewer_bits_are_never_told_to_cost_less_and_a_few_trials_tell_of_all(
    uneven: Network, context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, _ = find_candidates(uneven, (), takes=frozenset({"dense"}))
    widths = Widths(uneven, candidates, SharedGrid(), (2, 4, 8), floats=True)
    every = measure_costs(widths, ask(), context(), (0, 1))
    for row in every.values():
        costs = list(row.values())
        assert costs == sorted(costs, reverse=True)
        assert row[FLOAT_BITS] == 0.0
    monkeypatch.setattr("core.compression.sensitivity.MOST_MACS", 5 * 8 * describe(uneven).macs)
    some = measure_costs(widths, ask(), context(), (0, 1))
    assert set(some) == set(every)
    for path, row in some.items():
        assert all(row[bits] > 0 for bits in (2, 4, 8))
        assert every[path][4] / 30 < row[4] < every[path][4] * 30


def test_a_width_at_which_a_layer_is_exact_tells_nothing_of_others(
    uneven: Network, context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = uneven.graph.get_submodule("conv2")
    assert isinstance(layer, nn.Conv2d)
    layer.weight.data = torch.arange(layer.weight.numel()).remainder(15).sub(7).reshape(layer.weight.shape) / 64
    candidates, _ = find_candidates(uneven, (), takes=frozenset({"dense"}))
    widths = Widths(uneven, candidates, SharedGrid(per="tensor"), (2, 4), floats=True)
    assert widths.table["conv2"][1].error == 0.0
    monkeypatch.setattr("core.compression.sensitivity.MOST_MACS", 4 * 8 * describe(uneven).macs)
    costs = measure_costs(widths, ask(), context(), (0, 1))
    assert 0 < costs["conv2"][2] < 100


def test_a_layer_of_zeros_costs_nothing(uneven: Network, context: MakeContext) -> None:
    layer = uneven.graph.get_submodule("conv2")
    assert isinstance(layer, nn.Conv2d)
    layer.weight.data = torch.zeros_like(layer.weight)
    _, _, decision = apply(uneven, ask(), context())
    assert decision.bits["conv2"] == 2
    assert decision.costs["conv2"][2] == pytest.approx(0.0, abs=1e-12)
