from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.prune.blocks import LayerPruner
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.measure import network_latency
from core.messages import LogMessage, Message, MetricMessage, ProgressMessage
from core.network.inspect import read
from core.network.network import Network
from core.network.share import copy_graph
from core.network.surgery import choose_blocks, find_blocks
from core.specs.budgets import BlockBudget
from core.specs.structured_pruning import LayerPruning
from tests.core.compression.conftest import save

WEIGHT_OF = (1.0, 0.01, 0.8, 0.1)


class Steps(nn.Module):
    """Four residual blocks that add more or less to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.steps = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in WEIGHT_OF)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps:
            x = x + step(x)
        return self.head(x)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    torch.manual_seed(0)
    module = Steps()
    for step, weight in zip(module.steps, WEIGHT_OF, strict=True):
        step[2].weight.data *= 3 * weight
    return read(save(module, torch.randn(2, 6), tmp_path_factory.mktemp("steps") / "steps.pt2"))


@pytest.fixture
def numbers(network: Network, tmp_path: Path) -> Dataset:
    x = np.random.default_rng(0).standard_normal((128, 6)).astype(np.float32)
    y = network.graph(torch.from_numpy(x)).argmax(1).numpy()
    np.savez(tmp_path / "numbers.npz", x=x, y=y)
    splits = {"train": SplitArrays(x="x", y="y"), "evaluation": SplitArrays(x="x", y="y")}
    return open_dataset([tmp_path / "numbers.npz"], DatasetSpec(task="classification", splits=splits), network.inputs)


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({"keep": 0.75}, {1}),
        ({"keep": 0.5}, {1, 3}),
        ({"keep": 0.01}, {1, 2, 3}),
        ({"keep": 0.99}, {1}),
        ({"keep": 0.75, "protect": ["steps.1"]}, {3}),
    ],
)
def test_blocks_that_add_little_go(
    network: Network, numbers: Dataset, context: Callable[..., Context], settings: dict[str, object], gone: set[int]
) -> None:
    names = [block.name for block in find_blocks(network)]
    spec = LayerPruning.model_validate(settings | {"protect": [names[1]] if "protect" in settings else []})
    pruned, report = LayerPruner().apply(network, spec, replace(context(), dataset=numbers))
    check_step(network, pruned, report, (torch.randn(3, 6),))
    assert report.plan["left_out"] == [names[place] for place in sorted(gone)]
    assert len(find_blocks(pruned)) == 4 - len(gone)
    assert len(report.sensitivities) == (3 if "protect" in settings else 4)


def test_spread_over_the_depth_no_data_is_needed(network: Network, context: Callable[..., Context]) -> None:
    spec = LayerPruning(keep=BlockBudget(blocks=0.5), criterion="even")
    pruned, _ = LayerPruner().apply(network, spec, replace(context(), dataset=None))
    assert len(find_blocks(pruned)) == 2
    assert spec.calibration_samples() == 0


def test_spread_over_those_that_may_go(network: Network, context: Callable[..., Context]) -> None:
    names = tuple(block.name for block in find_blocks(network))
    (first,) = choose_blocks(find_blocks(network), 0.75)
    spec = LayerPruning(keep=BlockBudget(blocks=0.75), criterion="even", protect=(first,))
    pruned, report = LayerPruner().apply(network, spec, replace(context(), dataset=None))
    assert len(find_blocks(pruned)) == 3
    assert report.plan["left_out"] != [first]
    assert not report.findings
    # Fewer may go than were asked for.
    spec = LayerPruning(keep=BlockBudget(blocks=0.25), criterion="even", protect=names[:2])
    _, report = LayerPruner().apply(network, spec, replace(context(), dataset=None))
    assert report.plan["left_out"] == list(names[2:])
    (finding,) = report.findings
    assert finding.text.startswith("3 of 4 blocks were to be left out, and 2 are")


def test_a_plan_is_followed(network: Network, numbers: Dataset, context: Callable[..., Context]) -> None:
    names = [block.name for block in find_blocks(network)]
    spec, given = LayerPruning(keep=BlockBudget(blocks=0.75)), replace(context(), dataset=numbers)
    pruned, report = LayerPruner().apply(network, spec, replace(given, recorded={"left_out": [names[0]]}))
    assert report.plan["left_out"] == [names[0]]
    assert [block.name for block in find_blocks(pruned)] == names[1:]
    assert len(report.sensitivities) == 4
    with pytest.raises(ModelpressError, match="does not say which blocks") as caught:
        LayerPruner().apply(network, spec, replace(given, recorded={}))
    assert caught.value.pointer == "/plan"


def test_a_block_without_which_nothing_is_a_number_goes_last(
    network: Network, numbers: Dataset, context: Callable[..., Context]
) -> None:
    graph = copy_graph(network.graph)
    one, two = find_blocks(network)[:2]
    # The second block reads nothing and takes away what the first one adds, which is too much for those behind.
    for path, value in (
        (f"{one.layers[-1]}.bias", -3e38),
        (f"{two.layers[-1]}.bias", 3e38),
        (f"{two.layers[0]}.weight", 0),
    ):
        parameter = graph.get_parameter(path)
        parameter.data = torch.full_like(parameter, value)
    huge = replace(network, graph=graph)
    _, report = LayerPruner().apply(
        huge, LayerPruning(keep=BlockBudget(blocks=0.75)), replace(context(), dataset=numbers)
    )
    assert not {one.name, two.name} & set(report.plan["left_out"])
    broken = report.sensitivities[one.layers[0]]
    assert (broken.loss_increase, broken.sqnr_db) == (None, -200.0)


def test_what_cannot_go_is_a_sentence(network: Network, residual: Network, context: Callable[..., Context]) -> None:
    names = tuple(block.name for block in find_blocks(network))
    with pytest.raises(ModelpressError, match="protected"):
        LayerPruner().apply(network, LayerPruning(protect=names), context())
    with pytest.raises(ModelpressError, match="no block: nonsense"):
        LayerPruner().apply(network, LayerPruning(protect=("nonsense",)), context())
    # Both blocks have a convolution beside them, so that nothing is added to what goes in.
    with pytest.raises(ModelpressError, match="no residual blocks"):
        LayerPruner().apply(residual, LayerPruning(), context())


def test_blocks_of_a_large_network_are_tried_once(
    network: Network, numbers: Dataset, context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.compression.prune.blocks.describe", lambda network: SimpleNamespace(macs=10**11))
    names = [block.name for block in find_blocks(network)]
    told: list[Message] = []
    given = replace(context(), dataset=numbers, emit=told.append)
    _, report = LayerPruner().apply(network, LayerPruning(keep=BlockBudget(blocks=0.25)), given)
    assert report.plan["left_out"] == [names[1], names[2], names[3]]
    assert sum(isinstance(each, MetricMessage) for each in told) == len(names)
    assert sum("Trying" in each.message for each in told if isinstance(each, ProgressMessage)) == len(names)
    assert any("4 times, on 8 samples" in each.text for each in told if isinstance(each, LogMessage))


def test_a_time_that_cannot_be_kept_is_told_and_a_plan_is_followed_without_a_clock(
    network: Network,
    context: Callable[..., Context],
    numbers: Dataset,
    told: list[Message],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network_latency, "_RUNS", 3)
    monkeypatch.setattr(network_latency, "_BLOCKS", 1)
    names = [block.name for block in find_blocks(network)]
    settings = {"keep": {"latency_ms": 1e-6}, "criterion": "even", "protect": names[1:]}
    spec = LayerPruning.model_validate(settings)
    given = replace(context(), dataset=numbers)
    _, report = LayerPruner().apply(network, spec, given)
    (finding,) = report.findings
    assert finding.code == "pruning_goal_missed"
    assert report.plan["left_out"] == names[:1]
    measured = [each.value for each in told if isinstance(each, MetricMessage) and each.name == "latency_measured_ms"]
    assert measured == [report.plan["latency"]["measured_ms"]]
    _, again = LayerPruner().apply(network, spec, replace(given, recorded=report.plan))
    assert again.plan == report.plan
    assert again.findings == report.findings
