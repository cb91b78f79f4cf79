"""What pruning cannot do, or only in part: a sentence each, or a network that still holds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.network.encodings import AffineInteger, Codebook, Encoding, packed_grid, symmetric_grid
from core.network.export import export_onnx
from core.network.network import Network
from core.network.surgery import Channels
from core.specs.base import Spec
from core.specs.budgets import BlockBudget
from core.specs.mask_pruning import KernelPruning, VectorPruning, WeightPruning
from core.specs.structured_pruning import ChannelPruning, LayerPruning
from tests.conformance.pruning_cases import Pruned, check_pruned, prune
from tests.core.network.surgery.comparing import answers, distance, run_onnx
from tests.core.network.surgery.known import Known, known
from tests.core.network.surgery.structures import network_of


def read(module: nn.Module, *shape: int) -> Known:
    torch.manual_seed(0)
    inputs = (torch.randn(3, *shape),)
    network = network_of((module, inputs))
    return Known(network, inputs, Channels(network))


def channels(**settings: object) -> ChannelPruning:
    return ChannelPruning.model_validate({"criterion": "l2", **settings})


class Odd(nn.Module):
    """A convolution in four groups before a norm in three."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 3, 1, 1), nn.Conv2d(24, 24, 3, 1, 1, groups=4)
        self.norm, self.head = nn.GroupNorm(3, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.b(F.relu(self.a(x))))).mean((2, 3)))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.mix(torch.relu(self.mix(torch.relu(self.first(x)))))))


class Features(nn.Module):
    """What the last layer reads is an output too."""

    def __init__(self, hidden: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)
        self.before = nn.Linear(6, 6) if hidden else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(torch.relu(self.before(x))))
        return x, self.last(x)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


class Empty(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * 2


EVERY: tuple[tuple[Spec, str], ...] = (
    (WeightPruning(), "No layer of a kind that prune.weights takes is there"),
    (VectorPruning(), "No layer of a kind that prune.vectors takes is there"),
    (KernelPruning(), "No layer of a kind that prune.kernels takes is there"),
    (channels(), "Channels lie between two layers with weights, and this network has no two of them"),
    (LayerPruning(criterion="even"), "A network of one layer has no block that could be left out"),
)


@pytest.mark.parametrize("module", [Cell(), Empty()], ids=["recurrent", "empty"])
def test_a_network_without_anything_to_prune_is_a_sentence(module: nn.Module) -> None:
    case = read(module, 5, 6)
    for spec, why in EVERY:
        told = prune(case, spec)
        assert isinstance(told, str)
        assert told.startswith(why)


@pytest.mark.parametrize(
    "spec",
    [
        WeightPruning.model_validate({"keep": 1e-6}),
        WeightPruning.model_validate({"keep": 1e-6, "ranking": "layer"}),
        KernelPruning.model_validate({"keep": 1e-6, "criterion": "l1"}),
        channels(keep=1e-6, least=1e-6),
        LayerPruning.model_validate({"keep": 1e-6, "criterion": "even"}),
    ],
    ids=lambda spec: spec.method,
)
def test_no_ratio_empties_a_layer(spec: Spec) -> None:
    case = known("residual")
    pruned = prune(case, spec)
    assert isinstance(pruned, Pruned)
    for name, weight in pruned.network.graph.named_parameters():
        assert weight.numel(), name
        assert not name.endswith("weight") or bool((weight != 0).any()), name
    assert [value.isfinite().all() for value in answers(pruned.network, case.inputs)] == [True]


@pytest.mark.parametrize(
    "spec",
    [WeightPruning, VectorPruning, KernelPruning, ChannelPruning],
)
def test_everything_protected_is_a_sentence(spec: type[Spec]) -> None:
    case = known("residual")
    names = [layer.name for layer in case.description.layers]
    told = prune(case, spec.model_validate({"protect": names, "criterion": "l2"}))
    assert told == "Every layer that could be pruned is protected."
    told = prune(case, LayerPruning(protect=("body.1", "body.3"), criterion="even"))
    assert told == "Every block that could be left out is protected."


def test_groups_that_do_not_divide_keep_what_they_touch() -> None:
    case = read(Odd(), 3, 8, 8)
    spec = channels(keep=0.6)
    pruned = prune(case, spec)
    assert isinstance(pruned, Pruned)
    check_pruned(case, spec, pruned)
    # Only what goes into each of the four groups can become narrower.
    assert set(pruned.report.plan["kept"]) == {"a.weight[0].1"}
    reasons = {reason for each in case.channels.protected for reason in each.reasons}
    assert "the blocks of GroupNorm do not fit" in reasons


def test_a_layer_that_is_called_twice_is_cut_once_and_masked_nowhere() -> None:
    case = read(Twice(), 6)
    cut = prune(case, channels())
    assert isinstance(cut, Pruned)
    check_pruned(case, channels(), cut)
    kept = len(cut.report.plan["kept"]["first.weight[0]"])
    assert cut.network.graph.get_parameter("mix.weight").shape == (kept, kept)
    masked = prune(case, WeightPruning())
    assert isinstance(masked, Pruned)
    assert "mix" not in masked.report.layers


def test_outputs_within_a_group_stay_and_come_in_their_order(tmp_path: Path) -> None:
    assert prune(read(Features(), 6), channels()) == (
        "No channel of this network can be cut: an input of the network; an output of the network."
    )
    case = read(Features(hidden=True), 6)
    named = replace(case.network, metadata={"licence": "CC0", "labels": "cat,dog"})
    case = Known(named, case.inputs, Channels(named))
    pruned = prune(case, channels(keep=0.9, least=0.1))
    assert isinstance(pruned, Pruned)
    check_pruned(case, channels(), pruned)
    assert set(pruned.report.plan["kept"]) == {"before.weight[0]"}
    path = tmp_path / "model.onnx"
    export_onnx(pruned.network, path)
    assert distance(run_onnx(path, case.inputs), answers(pruned.network, case.inputs)) < 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [value.name for value in named.inputs]
    assert [(value.name, value.shape[1]) for value in session.get_outputs()] == [
        (value.name, width) for value, width in zip(named.outputs, (12, 4), strict=True)
    ]
    assert {each.key: each.value for each in onnx.load(path).metadata_props} == named.metadata


@pytest.mark.parametrize("settings", [{"n": 2, "m": 7}, {"n": 1, "m": 64}, {"block": (5, 7)}], ids=str)
def test_rows_that_do_not_divide_are_pruned_to_their_end(settings: dict[str, object]) -> None:
    case = known("plain")
    spec = WeightPruning.model_validate({"criterion": "l1", "ranking": "layer", **settings})
    pruned = prune(case, spec)
    assert isinstance(pruned, Pruned)
    for layer in pruned.report.layers:
        rows = pruned.network.graph.get_parameter(f"{layer}.weight").flatten(1) != 0
        assert bool(rows.any()), layer
        if spec.n is not None and spec.m is not None:
            for start in range(0, rows.shape[1], spec.m):
                part = rows[:, start : start + spec.m]
                assert bool((part.sum(1) == min(spec.n, part.shape[1])).all()), layer


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.25), (0.8, 0.6)])
@pytest.mark.parametrize("make", [WeightPruning, channels], ids=["weights", "channels"])
def test_what_was_pruned_is_pruned_again(make: Callable[..., Spec], first: float, second: float) -> None:
    case = known("mixer")
    counts = [_count(case.network)]
    for keep in (first, second):
        pruned = prune(case, make(criterion="l2", keep=keep))
        assert isinstance(pruned, Pruned)
        case = Known(pruned.network, case.inputs, Channels(pruned.network))
        counts.append(_count(pruned.network))
    assert counts[2] < counts[1] < counts[0]


def test_the_last_block_stays_when_blocks_are_left_out_again() -> None:
    case = known("mixer")
    spec = LayerPruning(keep=BlockBudget(blocks=0.5), criterion="even")
    once = prune(case, spec)
    assert isinstance(once, Pruned)
    told = prune(Known(once.network, case.inputs, Channels(once.network)), spec)
    assert isinstance(told, str)
    assert told.endswith("and one has to stay, so that nothing can be left out.")


def _count(network: Network) -> int:
    return sum(int((weight != 0).sum()) for weight in network.graph.parameters())


def test_channels_of_what_is_quantized_are_cut_where_its_encoding_can_be() -> None:
    for make in (
        lambda weight: AffineInteger.of(weight, grid=symmetric_grid(8), axis=0),
        lambda weight: Codebook.of(weight, torch.linspace(-2, 2, 16)),
    ):
        case = _encoded(make)
        pruned = prune(case, channels(keep=0.6))
        assert isinstance(pruned, Pruned)
        check_pruned(case, channels(), pruned)
        assert pruned.network.encodings["mix.weight"].kinds == case.network.encodings["mix.weight"].kinds
    groups = _encoded(lambda weight: AffineInteger.of(weight, grid=packed_grid(4, group=4), axis=0))
    assert prune(groups, channels()) == (
        "No channel of this network can be cut: an input of the network; an output of the network; "
        "stored as int4 in groups of 4, where several positions share what a cut would divide."
    )


def _encoded(make: Callable[[Tensor], Encoding]) -> Known:
    """The network of a layer that is called twice, that layer's weight encoded."""
    case = read(Twice(), 6)
    layer = case.network.graph.get_submodule("mix")
    encoding = make(layer.weight.detach())
    layer.weight = nn.Parameter(encoding.decode())
    network = replace(case.network, encodings={"mix.weight": encoding})
    return Known(network, case.inputs, Channels(network))
