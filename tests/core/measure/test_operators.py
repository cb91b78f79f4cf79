"""Operators of a file at other widths: their sizes, their models, and how their times are put together."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from core.measure.latency_table import LatencyTable, Timed, knots
from core.measure.network_latency import NetworkLatency, cut_to
from core.measure.onnx_graph import load_graph
from core.measure.operators import Operator, split_file
from core.measure.runtime import open_session, run_session
from core.measure.symbolic_sizes import SizeBook, choose_probes, size_of
from core.network.capture import capture
from core.network.export import export_onnx
from core.network.inspect import read
from core.network.surgery import Channels, Group, outer_groups
from core.network.surgery.dimensions import Axis, Dimension


class Mixed(nn.Module):
    """A grouped convolution between others, a shortcut, and attention of two heads over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide, self.qkv, self.out = nn.Conv2d(8, 12, 1), nn.Linear(12, 24), nn.Linear(8, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.wide(x + self.deep(x))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(seen.transpose(1, 2).reshape(-1, 16, 8))
        answer: Tensor = self.head(x.mean(1))
        return answer


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Channels:
    path = tmp_path_factory.mktemp("mixed") / "mixed.pt2"
    capture(Mixed().eval(), torch.randn(2, 1, 4, 4), path)
    return Channels(read(path))


@pytest.fixture(scope="module")
def groups(channels: Channels) -> tuple[Group, ...]:
    return outer_groups(channels)


FEED = {"x": np.random.default_rng(1).standard_normal((2, 1, 4, 4)).astype(np.float32)}


def write(channels: Channels, widths: dict[Group, int], path: Path) -> Path:
    export_onnx(cut_to(channels, widths), path)
    return path


@pytest.fixture(scope="module")
def files(
    channels: Channels, groups: tuple[Group, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Path], SizeBook]:
    folder, probes = tmp_path_factory.mktemp("probes"), choose_probes(groups)
    paths = [write(channels, widths, folder / f"{number}.onnx") for number, widths in enumerate([{}, *probes])]
    return paths, SizeBook(channels, probes)


@pytest.fixture(scope="module")
def operators(files: tuple[list[Path], SizeBook]) -> tuple[Operator, ...]:
    feed = {open_session(files[0][0], 1).get_inputs()[0].name: FEED["x"]}
    found = split_file([load_graph(path) for path in files[0]], feed, files[1])
    assert found is not None
    return found


def sizes(operator: Operator, widths: dict[Group, int]) -> dict[Dimension, int]:
    return {each: size_of(each, {group.axis: width for group, width in widths.items()}) for each in operator.variables}


def test_no_two_groups_of_a_size_change_alike(groups: tuple[Group, ...]) -> None:
    many = [Group(f"g{number}", 3, (), statistic=False, axis=Axis(3)) for number in range(20)]
    for some in (list(groups), many):
        probes = choose_probes(some)
        rows = {(group.size, *(probe[group] for probe in probes)) for group in some}
        assert len(rows) == len(some)
        assert all(1 <= probe[group] <= group.size for probe in probes for group in some)
        assert all(any(probe[group] < group.size for probe in probes) for group in some)


def test_operators_have_the_shapes_that_a_cut_network_has(
    channels: Channels,
    groups: tuple[Group, ...],
    files: tuple[list[Path], SizeBook],
    operators: tuple[Operator, ...],
    tmp_path: Path,
) -> None:
    widths = {group: max(group.size // 2, 1) for group in groups}
    cut = load_graph(write(channels, widths, tmp_path / "cut.onnx"))
    feed = {next(iter(cut.inputs)): FEED["x"]}
    fresh = split_file([cut], feed, files[1])
    assert fresh is not None
    # What the cut network really has, operator by operator, is what is predicted for it.
    for predicted, real in zip(operators, fresh, strict=True):
        at = sizes(predicted, widths)
        for slot, other in zip(predicted.slots, real.slots, strict=True):
            if other.sample.size == 1:
                # Single numbers have no axis in one file, one of length 1 in another.
                continue
            assert slot.fill(at).shape == other.sample.shape
            if slot.numbers is not None:
                np.testing.assert_array_equal(slot.fill(at), other.sample)


@pytest.mark.parametrize("copies", [1, 3])
def test_operators_alone_are_models_that_run(operators: tuple[Operator, ...], copies: int) -> None:
    assert {node.op_type for operator in operators for node in operator.nodes} >= {"Conv", "Softmax", "Relu"}
    for operator in operators:
        for share in (1.0, 0.5):
            at = {each: max(round(share * size), 1) for each, size in operator.variables.items()}
            model, feed = operator.model(at, copies)
            session = open_session(model.SerializeToString(), 1)
            assert all(np.isfinite(array).all() for array in run_session(session, feed))


def test_copies_are_not_computed_once_for_all(operators: tuple[Operator, ...], tmp_path: Path) -> None:
    for operator in operators:
        model, _ = operator.model(operator.variables, 3)
        open_session(model.SerializeToString(), 1, optimised_to=tmp_path / "optimised.onnx")
        kinds = [node.op_type.removeprefix("Fused") for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert kinds.count("Conv") + kinds.count("MatMul") + kinds.count("Gemm") >= 3


def test_times_of_a_product_are_given_exactly_between_the_ends() -> None:
    inputs, outputs = Axis(32), Axis(64)

    def time(rows: int, columns: int) -> float:
        # Steps of 16, as of blocks of channels.
        return 0.5 + (rows + 3) * -(-columns // 16)

    curves: dict[Dimension, tuple[tuple[int, ...], tuple[float, ...]]] = {
        inputs: (knots(32), tuple(time(width, 64) for width in knots(32))),
        outputs: (knots(64), tuple(time(32, width) for width in knots(64))),
    }
    low = knots(32)[0], knots(64)[0]
    corner = time(*low) + time(32, 64) - time(low[0], 64) - time(32, low[1])
    timed = Timed(time(32, 64), curves, {(inputs, outputs): corner})
    for rows in knots(32):
        for columns in knots(64):
            assert timed.at({inputs: rows, outputs: columns}) == pytest.approx(time(rows, columns))
    # A sum of both has no corner.
    assert Timed(5.0, {inputs: ((4, 32), (2.0, 5.0)), outputs: ((8, 64), (4.0, 5.0))}, {(inputs, outputs): 0.0}).at(
        {inputs: 4, outputs: 8}
    ) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 16, 20, 50, 500])
def test_knots_are_few_and_end_with_the_full_width(size: int) -> None:
    found = knots(size)
    assert found[-1] == size
    assert found[0] >= 1
    assert len(found) <= 9
    assert list(found) == sorted(set(found))


def test_equal_operators_are_timed_once_and_a_network_is_their_sum(
    operators: tuple[Operator, ...], groups: tuple[Group, ...]
) -> None:
    table = LatencyTable("onnxruntime-cpu", 1)
    some = operators[:2]
    first = table.time(some)
    points = table.points
    assert table.time(some) == first
    assert table.points == points
    latency = NetworkLatency(first, 0.25)
    alone = sum(timed.full for timed in first.values())
    assert latency.at({}) == pytest.approx(0.25 + alone)
    narrow = [dict.fromkeys(groups, width) for width in (1, 2, 3)]
    measured = [(widths, 1.5 + 2 * (latency.at(widths) - 0.25)) for widths in ({}, *narrow)]
    latency.calibrate(measured)
    for widths, ms in measured:
        assert latency.at(widths) == pytest.approx(ms, rel=1e-6)
