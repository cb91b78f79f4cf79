"""Widths by time. No test says how long anything takes: what is asked for is far from what noise can do."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.prune.channels import ChannelPruner
from core.compression.prune.latency import _alike, _rewarding, _worthiest
from core.compression.prune.widths import Bounds
from core.data.dataset import Dataset
from core.measure import latency, latency_table, network_latency
from core.measure.latency_table import knots
from core.messages import Message, MetricMessage
from core.network.network import Network
from core.network.surgery import Group
from core.network.surgery.dimensions import Axis
from core.specs.structured_pruning import ChannelPruning

MakeContext = Callable[..., Context]


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs: what is asked for is far from what noise can do."""
    monkeypatch.setattr(latency, "WARM_UP_NS", 1_000_000)
    monkeypatch.setattr(network_latency, "_RUNS", 3)
    monkeypatch.setattr(network_latency, "_BLOCKS", 2)
    monkeypatch.setattr(latency_table, "_ROUNDS", 2)
    monkeypatch.setattr(latency_table, "_MOST_ROUNDS", 2)
    monkeypatch.setattr(latency_table, "_BURST_NS", 10_000)


def group(name: str, size: int) -> Group:
    return Group(name, size, (), statistic=False, axis=Axis(size))


A, B = group("a", 32), group("b", 64)


def in_blocks(widths: Mapping[Group, int]) -> float:
    """As of a runtime that computes channels in blocks of 16."""
    a, b = widths.get(A, 32), widths.get(B, 64)
    return 1.0 + -(-a // 16) * -(-b // 16)


def bounds(**fixed: float) -> Bounds:
    by_group = {each: fixed[each.name] for each in (A, B) if each.name in fixed}
    return Bounds(0.1, by_group, rounded=True, whole={A: 32, B: 64})


def test_only_widths_that_the_host_rewards_are_taken() -> None:
    assert _rewarding(A, bounds(), in_blocks) == (16, 32)
    assert _rewarding(B, bounds(), in_blocks) == (16, 32, 48, 64)
    assert _rewarding(B, bounds(b=0.5), in_blocks) == (32,)
    assert len(_rewarding(A, bounds(), lambda widths: float(widths.get(A, 32)))) == len(knots(32))


def test_what_is_worth_least_for_its_time_goes_first() -> None:
    options = {each: _rewarding(each, bounds(), in_blocks) for each in (A, B)}
    worth = {A: torch.ones(32), B: torch.full((64,), 0.01)}
    assert _worthiest(options, worth, in_blocks, 5.0) == {A: 32, B: 32}
    assert _worthiest(options, {A: worth[B][:32], B: torch.ones(64)}, in_blocks, 5.0) == {A: 16, B: 64}
    assert _worthiest(options, worth, in_blocks, 100.0) == {A: 32, B: 64}
    # What cannot be reached ends at the narrowest.
    assert _worthiest(options, worth, in_blocks, 0.5) == {A: 16, B: 16}
    assert _alike(options, in_blocks, 3.5) == {A: 16, B: 32}
    assert _alike(options, in_blocks, 0.5) == {A: 16, B: 16}


@pytest.mark.usefixtures("_short")
def test_a_time_that_cannot_be_kept_ends_at_the_narrowest_and_is_told(
    residual: Network, context: MakeContext, told: list[Message], images: Dataset
) -> None:
    spec = ChannelPruning.model_validate({"keep": {"latency_ms": 1e-6}, "criterion": "l2", "compensate": "none"})
    pruned, report = ChannelPruner().apply(residual, spec, replace(context(), alone=False))
    probe = (next(images.batches("evaluation", 8)).inputs[images.inputs[0].name],)
    check_step(residual, pruned, report, probe)
    (finding,) = report.findings
    assert finding.code == "pruning_goal_missed"
    assert "onnxruntime" in finding.text
    timing = report.plan["latency"]
    assert timing["measured_ms"] > timing["asked_ms"] == pytest.approx(1e-6)
    names = {message.name for message in told if isinstance(message, MetricMessage)}
    assert names >= {"latency_asked_ms", "latency_predicted_ms", "latency_measured_ms"}

    # A plan is followed and not the clock.
    again, repeated = ChannelPruner().apply(residual, spec, replace(context(), recorded=report.plan, alone=False))
    assert repeated.plan == report.plan
    assert repeated.findings == report.findings
    assert torch.equal(again.graph(*probe), pruned.graph(*probe))
