"""Budgets and rounds: what is left is what was asked for, what is interrupted goes on, what is replayed is the same."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.compression.checks import check_step
from core.compression.context import Context, NoCheckpoint, StepCheckpoint
from core.compression.method import Report
from core.compression.prune import PRUNE
from core.compression.prune.spent_drop import open_yardstick
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.messages import LogMessage, Message, MetricMessage
from core.network.checkpoint import save_tensors
from core.network.describe import describe
from core.network.encodings import Masked
from core.network.inspect import read
from core.network.network import Network
from core.network.stored_bytes import stored_bytes
from core.specs.mask_pruning import KernelPruning, WeightPruning
from core.specs.pruning import Pruning
from core.specs.schedule import Schedule
from core.specs.structured_pruning import ChannelPruning, LayerPruning
from tests.core.compression.conftest import SHAPE, save
from tests.core.compression.train.conftest import KilledError, Memory

MakeContext = Callable[..., Context]

TRAIN = {"method": "finetune", "steps": 4, "lr": 0.01, "batch_size": 32}
CHANNELS: dict[str, Any] = {"criterion": "l2", "multiple": "none", "compensate": "none"}


MASKS: dict[str, Any] = {"criterion": "l2", "update": "none"}


class Steps(nn.Module):
    """Residual blocks on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6)) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = x + step(x)
        return x


def prune(network: Network, context: Context, kind: type[Pruning], **settings: object) -> tuple[Network, Report]:
    return PRUNE[kind].apply(network, kind.model_validate(settings), context)


def numbers(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.graph.state_dict().items()}


def same(one: Network, other: Network) -> bool:
    left, right = numbers(one), numbers(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def share_left(network: Network) -> float:
    masks = [each.mask for each in network.encodings.values() if isinstance(each, Masked)]
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def lines(told: list[Message]) -> list[str]:
    return [each.text for each in told if isinstance(each, LogMessage)]


def test_shapes_of_schedules_end_where_all_is_gone() -> None:
    linear, cubic = (Schedule.model_validate({"rounds": 4, "shape": shape}) for shape in ("linear", "cubic"))
    assert [linear.gone(number) for number in range(1, 5)] == [0.25, 0.5, 0.75, 1]
    # Zhu and Gupta, equation 1, from nothing to all.
    assert [cubic.gone(number) for number in range(1, 5)] == pytest.approx([1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3, 1])


def test_masks_of_later_rounds_lie_within_those_of_earlier_ones(
    residual: Network, context: MakeContext, told: list[Message]
) -> None:
    given = context()
    settings = MASKS | {"keep": 0.2, "schedule": {"rounds": 3, "shape": "linear", "train": TRAIN}}
    found, report = prune(residual, given, WeightPruning, **settings)
    (batch,) = given.needed_dataset().batches("evaluation", 8, 8)
    check_step(residual, found, report, tuple(batch.inputs.values()))
    assert share_left(found) == pytest.approx(0.2, abs=1e-3)
    shares = [each["keep"]["weights"] for each in report.plan["rounds"]]
    assert shares == pytest.approx([1 - 0.8 / 3, 1 - 1.6 / 3, 0.2])
    assert [each["training"]["training"]["steps_done"] for each in report.plan["rounds"]] == [4, 4, 4]
    # What each layer costs alone is measured once.
    alone = [each for each in told if isinstance(each, MetricMessage) and each.name == "sqnr"]
    assert len(alone) == len(report.sensitivities)
    losses = [each.at for each in told if isinstance(each, MetricMessage) and each.name == "lr"]
    assert losses == sorted(losses)
    assert len(set(losses)) == len(losses) == 12
    again, _ = prune(residual, replace(given, recorded=report.plan), WeightPruning, **settings)
    assert same(found, again)


def test_channels_in_rounds_pay_what_was_asked_for_and_know_their_first_outputs(
    residual: Network, context: MakeContext
) -> None:
    settings = CHANNELS | {"keep": {"parameters": 0.3}, "schedule": {"rounds": 3}}
    found, report = prune(residual, context(), ChannelPruning, **settings)
    assert 0.2 < describe(found).parameters / describe(residual).parameters <= 0.3
    assert not report.findings
    for layer, kept in report.plan["outputs"].items():
        weight, before = (each.graph.get_parameter(f"{layer}.weight") for each in (found, residual))
        assert len(kept) == len(weight)
        assert max(kept) < len(before)
    # Nothing was trained, so a bias is as it was, in the order of the map.
    kept = report.plan["outputs"]["fc1"]
    assert torch.equal(found.graph.get_parameter("fc1.bias"), residual.graph.get_parameter("fc1.bias")[kept])
    again, _ = prune(residual, replace(context(), recorded=report.plan), ChannelPruning, **settings)
    assert same(found, again)


def test_what_a_layer_keeps_at_least_is_of_what_it_began_with(residual: Network, context: MakeContext) -> None:
    settings = CHANNELS | {"keep": 0.01, "least": 0.5, "layers": {"fc1": 0.25}, "schedule": {"rounds": 3}}
    found, report = prune(residual, context(), ChannelPruning, **settings)
    assert found.graph.get_parameter("fc1.weight").shape[0] == 6
    assert {found.graph.get_parameter(f"{name}.weight").shape[0] for name in ("stem", "one.conv1")} == {4}
    # Said once, though every round has missed what it was to reach.
    assert [each.code for each in report.findings] == ["pruning_goal_missed"]


def test_blocks_go_in_rounds_and_rounds_without_any_are_left_out(
    context: MakeContext, tmp_path_factory: pytest.TempPathFactory, told: list[Message]
) -> None:
    network = read(save(Steps(), torch.randn(2, 6), tmp_path_factory.mktemp("steps") / "steps.pt2"))
    given = replace(context(), dataset=None)
    rounds = {"rounds": 6, "shape": "linear"}
    found, report = prune(network, given, LayerPruning, keep=0.4, criterion="even", schedule=rounds)
    assert len(report.plan["left_out"]) == 3
    assert describe(found).parameters == describe(network).parameters * 2 // 5
    assert sum("nothing to take away" in line for line in lines(told)) == 3
    costs = prune(network, given, LayerPruning, keep={"macs": 0.5}, criterion="even", schedule=rounds)[0]
    assert describe(costs).macs == describe(network).macs * 2 // 5
    _, missed = prune(network, given, LayerPruning, keep={"macs": 10}, criterion="even")
    assert "At most 10 multiply-adds were to be left, and 48 are" in missed.findings[0].text


@pytest.mark.parametrize(("kind", "most"), [(WeightPruning, 0.4), (WeightPruning, 9000), (KernelPruning, 0.7)])
def test_masks_keep_to_bytes(residual: Network, context: MakeContext, kind: type[Pruning], most: float) -> None:
    given = replace(context(), alone=False)
    found, report = prune(residual, given, kind, keep={"bytes": most}, **MASKS)
    allowed = most * stored_bytes(residual) if most < 1 else most
    assert 0.97 * allowed < stored_bytes(found) <= allowed
    assert not report.findings
    tight, report = prune(residual, given, kind, keep={"bytes": 10}, **MASKS)
    assert f"At most 10 bytes of weights were asked for; {stored_bytes(tight):,} are left" in report.findings[0].text


def test_an_interrupted_round_goes_on_to_the_same_bytes(
    residual: Network, context: MakeContext, tmp_path: Path
) -> None:
    schedule = {"rounds": 2, "train": TRAIN | {"method": "distill.logits"}}
    settings = CHANNELS | {"keep": 0.3, "schedule": schedule}

    def carry_out(checkpoint: StepCheckpoint) -> tuple[Network, Report]:
        return prune(residual, replace(context(), checkpoint=checkpoint, alone=False), ChannelPruning, **settings)

    wanted, expected = carry_out(NoCheckpoint())
    # What was kept last is of the time between the rounds, and of the training in the last.
    for last in (6, 8):
        memory = Memory(every=1, last=last)
        with pytest.raises(KilledError):
            carry_out(memory)
        assert memory.kept is not None
        again = memory.again()
        # As files hold it.
        save_tensors(memory.kept[0], tmp_path / "state.safetensors")
        again.kept = load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(memory.kept[1]))
        found, report = carry_out(again)
        assert same(found, wanted)
        assert report.plan == expected.plan


@pytest.fixture
def various(residual: Network, tmp_path: Path) -> tuple[Network, Dataset]:
    """The network with answers that differ from sample to sample, and samples that it has labelled."""
    x = torch.randn(200, *SHAPE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        last = residual.graph.get_submodule("fc2")
        last.weight.mul_(3 / residual.graph(x).std(0).mean())
        last.bias.sub_(residual.graph(x).mean(0))
        y = residual.graph(x).argmax(1)
    np.savez(tmp_path / "various.npz", x=x.numpy(), y=y.numpy())
    splits = {"train": SplitArrays(x="x", y="y")}
    spec = DatasetSpec(task="classification", splits=splits)
    return residual, open_dataset([tmp_path / "various.npz"], spec, residual.inputs)


@pytest.mark.parametrize("settings", [MASKS, MASKS | {"schedule": {"rounds": 5}}])
def test_as_much_goes_as_the_drop_allows(
    various: tuple[Network, Dataset], context: MakeContext, told: list[Message], settings: dict[str, Any]
) -> None:
    residual, images = various
    given, most = replace(context(), alone=False, dataset=images), 0.1
    found, report = prune(residual, given, WeightPruning, keep={"max_drop": most}, **settings)
    yardstick = open_yardstick(residual, given)
    assert yardstick.drop(yardstick.score(found)) <= most
    drops = [each.value for each in told if isinstance(each, MetricMessage) and each.name == "drop"]
    # Too much was tried, and given up.
    assert max(drops) > most
    assert share_left(found) < 0.95
    assert not report.findings
    again, _ = prune(residual, replace(given, recorded=report.plan), WeightPruning, keep={"max_drop": most}, **settings)
    assert same(found, again)


def test_as_many_blocks_go_as_the_drop_allows(
    context: MakeContext, tmp_path_factory: pytest.TempPathFactory, told: list[Message]
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    network = read(save(Steps(), torch.randn(2, 6), folder / "steps.pt2"))
    x = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
    np.savez(folder / "numbers.npz", x=x.numpy(), y=network.graph(x).argmax(1).numpy())
    spec = DatasetSpec(task="classification", splits={"train": SplitArrays(x="x", y="y")})
    given = replace(context(), dataset=open_dataset([folder / "numbers.npz"], spec, network.inputs), alone=False)
    found, report = prune(network, given, LayerPruning, keep={"max_drop": 0.2}, samples=32)
    yardstick = open_yardstick(network, given)
    assert yardstick.drop(yardstick.score(found)) <= 0.2
    assert describe(found).macs == describe(network).macs * (5 - len(report.plan["left_out"])) // 5
    # With one block fewer it was more.
    fewer = LayerPruning.model_validate({"keep": report.plan["share"] - 0.2, "samples": 32})
    worse, _ = PRUNE[LayerPruning].apply(network, fewer, given)
    assert yardstick.drop(yardstick.score(worse)) > 0.2


def test_a_drop_needs_data_and_may_allow_nothing(various: tuple[Network, Dataset], context: MakeContext) -> None:
    residual, images = various
    for schedule in (None, {"rounds": 2}):
        settings = {"keep": {"max_drop": 0.0}, "criterion": "random", "update": "none", "schedule": schedule}
        with pytest.raises(ModelpressError, match="needs a data set"):
            prune(residual, replace(context(), dataset=None), WeightPruning, **settings)
        found, report = prune(residual, replace(context(), alone=False, dataset=images), KernelPruning, **settings)
        assert same(found, residual)
        assert [each.code for each in report.findings] == ["pruning_goal_missed"]
        assert not report.layers


def test_what_was_reached_before_takes_no_rounds(residual: Network, context: MakeContext) -> None:
    given = replace(context(), dataset=None)
    sparse, _ = prune(residual, given, WeightPruning, keep=0.1, criterion="l2")
    found, report = prune(sparse, given, WeightPruning, keep=0.5, criterion="l2", schedule={"rounds": 2})
    assert same(sparse, found)
    assert not report.findings
    assert report.plan == {"rounds": []}


def test_n_of_m_in_rounds_ends_at_n(residual: Network, context: MakeContext) -> None:
    given = replace(context(), dataset=None)
    found, report = prune(residual, given, WeightPruning, n=1, m=4, criterion="l2", schedule={"rounds": 2})
    assert len(report.plan["rounds"]) == 2
    mask = found.encodings["fc1.weight"].mask
    assert set(mask.reshape(24, -1, 4).sum(2).flatten().tolist()) == {1}


def test_errors_within_a_round_name_it(residual: Network, context: MakeContext, images: Dataset) -> None:
    wild = TRAIN | {"lr": 10.0, "optimiser": "sgd", "clip": 0.0, "steps": 50, "early_stopping": 0}
    with pytest.raises(ModelpressError) as caught:
        prune(residual, context(), WeightPruning, keep=0.5, schedule={"rounds": 2, "train": wild}, **MASKS)
    assert caught.value.code == "training_diverged"
    assert re.match(r"Round [12] of 2: The loss was no number at update", caught.value.detail)
    with pytest.raises(ModelpressError, match="does not say what the rounds"):
        prune(residual, replace(context(), recorded={"kept": {}}), WeightPruning, schedule={"rounds": 2})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"keep": {"weights": 0.5, "bytes": 10}}, "give exactly one of weights, bytes and max_drop; given: weights, b"),
        ({"keep": {}}, "give exactly one of weights, bytes and max_drop; given: none"),
        ({"keep": {"macs": 0.5}}, "Extra inputs are not permitted"),
        ({"keep": {"max_drop": -1}}, "greater than or equal to 0"),
        ({"schedule": {"rounds": 1}}, "greater than or equal to 2"),
        ({"schedule": {"rounds": 2, "train": {"method": "quantize.linear"}}}, "does not match any of the expected"),
        ({"schedule": {"rounds": 2, "train": {"method": "distill.logits", "student": "mdl_1"}}}, "neither student"),
    ],
)
def test_budgets_and_schedules_that_are_none_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        WeightPruning.model_validate(settings)


def test_what_training_in_rounds_needs_the_step_needs() -> None:
    def asked(method: str, **settings: str) -> WeightPruning:
        schedule = {"rounds": 2, "train": {"method": method, **settings}}
        return WeightPruning.model_validate({"criterion": "l2", "schedule": schedule})

    assert asked("finetune").needs_labels()
    distil = asked("distill.logits", teacher="mdl_1")
    assert not distil.needs_labels()
    assert distil.references() == {"schedule/train/teacher": "mdl_1"}
    assert distil.needed().training
    assert not distil.needed().synthetic
    spent = WeightPruning.model_validate({"keep": {"max_drop": 0.01}, "criterion": "l2"})
    assert (spent.calibration_samples(), spent.needed().synthetic) == (1024, False)
    assert (WeightPruning().calibration_samples(), WeightPruning().needed().synthetic) == (0, True)
