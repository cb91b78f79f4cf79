from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.prune.channels import ChannelPruner
from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.measure.runtime import open_session, run_session
from core.network.describe import describe
from core.network.export import export_onnx
from core.network.inspect import read
from core.network.network import Network
from core.network.surgery import resize
from core.specs.budgets import ChannelBudget
from core.specs.structured_pruning import ChannelPruning

MakeContext = Callable[..., Context]


def probe(images: Dataset) -> tuple[torch.Tensor, ...]:
    return (next(images.batches("evaluation", 8)).inputs[images.inputs[0].name],)


@pytest.mark.parametrize("criterion", ["l1", "l2", "geometric_median", "fisher", "random"])
def test_the_costs_fall_to_what_was_asked_for(
    residual: Network, context: MakeContext, images: Dataset, criterion: str
) -> None:
    spec = ChannelPruning.model_validate({"keep": 0.5, "criterion": criterion, "compensate": "none"})
    pruned, report = ChannelPruner().apply(residual, spec, context())
    check_step(residual, pruned, report, probe(images))
    left = describe(pruned).macs / describe(residual).macs
    assert 0.4 < left <= 0.5
    assert not report.findings
    # The recorded indices give the same network again.
    again = resize(residual, report.plan["kept"])
    assert torch.equal(again.graph(*probe(images)), pruned.graph(*probe(images)))


@pytest.mark.parametrize(("of", "count"), [("parameters", "parameters"), ("macs", "macs")])
def test_by_layer_all_lose_the_same_share(residual: Network, context: MakeContext, of: str, count: str) -> None:
    spec = ChannelPruning.model_validate({"keep": {of: 0.4}, "ranking": "layer", "criterion": "l2", "multiple": "none"})
    pruned, _ = ChannelPruner().apply(residual, spec, context())
    before, after = describe(residual), describe(pruned)
    assert 0.3 < getattr(after, count) / getattr(before, count) <= 0.4
    shares = [
        pruned.graph.get_parameter(f"{path}.weight").shape[0] / residual.graph.get_parameter(f"{path}.weight").shape[0]
        for path in ("stem", "one.conv1", "two.conv1", "fc1")
    ]
    assert max(shares) - min(shares) < 0.15


def test_channels_that_do_nothing_go_first_and_nothing_changes(
    residual: Network, context: MakeContext, images: Dataset
) -> None:
    graph = residual.graph
    for path, dead in (("one.conv1", [1, 4, 5]), ("fc1", [0, 7, 9, 11, 20])):
        graph.get_parameter(f"{path}.weight").data[dead] = 0.0
        graph.get_parameter(f"{path}.bias").data[dead] = -1.0
    whole = describe(residual).parameters
    # Of fc1 five times 144 inputs, a bias and four outputs; of one.conv1 three times 72, a bias and 72.
    idle = 5 * (144 + 1 + 4) + 3 * (72 + 1 + 72)
    spec = ChannelPruning(keep=ChannelBudget(parameters=(whole - idle) / whole + 1e-6), multiple="none")
    pruned, report = ChannelPruner().apply(residual, spec, context())
    # Some units of fc1 are dead by nature.
    assert set(report.plan["kept"]) <= {"fc1.weight[0]", "one.conv1.weight[0]"}
    assert describe(pruned).parameters <= whole - idle
    torch.testing.assert_close(pruned.graph(*probe(images)), residual.graph(*probe(images)), atol=1e-5, rtol=1e-5)


def test_layers_have_widths_of_their_own_and_protected_ones_stay(residual: Network, context: MakeContext) -> None:
    spec = ChannelPruning(keep=ChannelBudget(macs=0.6), layers={"fc1": 0.25}, protect=("one.conv1",), criterion="l2")
    pruned, report = ChannelPruner().apply(residual, spec, context())
    assert pruned.graph.get_parameter("fc1.weight").shape[0] == 6
    assert pruned.graph.get_parameter("one.conv1.weight").shape[0] == 8
    assert report.layers


def test_a_goal_out_of_reach_gives_the_smallest_and_says_so(residual: Network, context: MakeContext) -> None:
    spec = ChannelPruning(keep=ChannelBudget(macs=0.01), least=0.5, criterion="l2")
    pruned, report = ChannelPruner().apply(residual, spec, context())
    (finding,) = report.findings
    assert finding.code == "pruning_goal_missed"
    left = describe(pruned).macs / describe(residual).macs
    assert f"{left:.1%} are left" in finding.text
    assert pruned.graph.get_parameter("fc1.weight").shape[0] == 12


def test_heads_go_whole_and_a_stock_runtime_runs_what_is_left(
    attention_file: Path, context: MakeContext, tmp_path: Path
) -> None:
    network = read(attention_file)
    spec = ChannelPruning(keep=ChannelBudget(parameters=0.7), criterion="l2", least=0.05)
    pruned, _ = ChannelPruner().apply(network, spec, replace(context(), dataset=None))
    assert describe(pruned).parameters <= 0.7 * describe(network).parameters
    ids = torch.randint(0, 11, (3, 9), generator=torch.Generator().manual_seed(0))
    export_onnx(pruned, tmp_path / "model.onnx", probes=(ids,))
    (found,) = run_session(open_session(tmp_path / "model.onnx", 1), {pruned.inputs[0].name: ids.numpy()})
    np.testing.assert_allclose(found, pruned.graph(ids).detach().numpy(), atol=1e-4, rtol=1e-4)


def test_nothing_to_cut_is_a_sentence(residual: Network, context: MakeContext) -> None:
    names = tuple(layer.name for layer in describe(residual).layers)
    with pytest.raises(ModelpressError, match="protected"):
        ChannelPruner().apply(residual, ChannelPruning(protect=names, criterion="l2"), context())
    with pytest.raises(ModelpressError, match="fc2"):
        ChannelPruner().apply(residual, ChannelPruning(layers={"fc2": 0.5}, criterion="l2"), context())


def test_layers_that_share_a_weight_are_named_too(attention_file: Path, context: MakeContext) -> None:
    network = read(attention_file)
    spec = ChannelPruning(keep=ChannelBudget(parameters=0.4), criterion="l2", least=0.05)
    pruned, report = ChannelPruner().apply(network, spec, replace(context(), dataset=None))
    assert pruned.graph.get_parameter("head.weight").shape[1] < 16
    assert {"head", "head_2"} <= set(report.layers)
    check_step(network, pruned, report, (torch.zeros(3, 9, dtype=torch.int64),))


def test_a_protected_layer_keeps_its_outputs_where_another_names_the_group(
    residual: Network, context: MakeContext
) -> None:
    # What the convolution beside the block answers is added to what the block does, which names the group.
    spec = ChannelPruning(keep=ChannelBudget(parameters=0.4), criterion="l2", protect=("one.short",))
    pruned, report = ChannelPruner().apply(residual, spec, context())
    assert pruned.graph.get_parameter("one.short.weight").shape[0] == 8
    assert "one.conv2.weight[0]" not in report.plan["kept"]
    # Its inputs are the outputs of another one.
    assert pruned.graph.get_parameter("one.short.weight").shape[1] < 8


def test_a_share_of_a_layer_counts_more_than_the_least(residual: Network, context: MakeContext) -> None:
    spec = ChannelPruning(keep=ChannelBudget(macs=0.9), least=0.5, layers={"fc1": 0.25}, criterion="l2")
    pruned, _ = ChannelPruner().apply(residual, spec, context())
    assert pruned.graph.get_parameter("fc1.weight").shape[0] == 6


def test_a_plan_is_followed_whatever_channels_are_worth(
    residual: Network, context: MakeContext, images: Dataset
) -> None:
    pruned, report = ChannelPruner().apply(residual, ChannelPruning(criterion="l2"), context())
    spec = ChannelPruning(criterion="random")
    again, repeated = ChannelPruner().apply(residual, spec, replace(context(), recorded=report.plan))
    assert repeated.plan == report.plan
    assert torch.equal(again.graph(*probe(images)), pruned.graph(*probe(images)))
    with pytest.raises(ModelpressError, match="does not say which channels") as caught:
        ChannelPruner().apply(residual, spec, replace(context(), recorded={"kept": {"stem.weight[0]": []}}))
    assert caught.value.pointer == "/plan"
    with pytest.raises(ModelpressError, match=r"no group odd"):
        ChannelPruner().apply(residual, spec, replace(context(), recorded={"kept": {"odd": [0]}}))
