"""What resizing promises: a copy, exact in the weights that stay, with its encodings, that exports."""

import pytest
import torch
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.encodings import (
    AffineInteger,
    Codebook,
    Dense,
    Encoding,
    LowRank,
    Masked,
    packed_grid,
    symmetric_grid,
)
from core.network.export import export_onnx
from core.network.network import Network
from core.network.surgery import Channels, Group, analysis, resize
from tests.core.network.surgery.comparing import answers, distance, run_onnx
from tests.core.network.surgery.structures import STRUCTURES, network_of

MATRIX = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))


class TwoMatrices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def encoded(encoding: Encoding) -> tuple[Network, Channels]:
    network = network_of((TwoMatrices(), (torch.randn(3, 8),)))
    network.encodings["first.weight"] = encoding
    network.graph.get_submodule("first").weight = nn.Parameter(encoding.decode())
    return network, Channels(network)


@pytest.mark.parametrize(
    "encoding",
    [
        Dense(MATRIX),
        Masked(MATRIX.abs() > 0.7, Dense(MATRIX)),
        Masked(MATRIX.abs() > 0.7, Codebook.of(MATRIX, torch.linspace(-2, 2, 16))),
        Codebook.of(MATRIX, torch.linspace(-2, 2, 16)),
        AffineInteger.of(MATRIX, grid=symmetric_grid(8), axis=None),
        AffineInteger.of(MATRIX, grid=symmetric_grid(8), axis=0),
        AffineInteger.of(MATRIX, grid=symmetric_grid(8), axis=1),
        AffineInteger.asymmetric(MATRIX, grid=packed_grid(4, asymmetric=True), axis=0),
    ],
    ids=lambda encoding: encoding.name,
)
def test_an_encoding_is_cut_along_and_keeps_its_values(encoding: Encoding) -> None:
    network, channels = encoded(encoding)
    kept = torch.tensor([0, 3, 4, 11, 23])
    cut = channels.resize({channels.group("first.weight[0]"): kept})
    found = cut.encodings["first.weight"]
    assert found.kinds == encoding.kinds
    assert found.shape == (5, 8)
    assert torch.equal(found.decode(), encoding.decode()[kept])
    assert torch.equal(cut.graph.get_parameter("first.weight"), found.decode())
    assert network.encodings["first.weight"] is encoding


@pytest.mark.parametrize(
    "encoding",
    [
        LowRank(Dense(MATRIX[:, :2]), Dense(MATRIX[:2, :]), (24, 8)),
        AffineInteger.of(MATRIX, grid=packed_grid(4, group=4), axis=0),
        Codebook.of(MATRIX, torch.linspace(-2, 2, 16).expand(2, 16)),
    ],
    ids=lambda encoding: encoding.name,
)
def test_an_encoding_that_cannot_be_cut_protects_its_channels_with_a_reason(encoding: Encoding) -> None:
    _, channels = encoded(encoding)
    assert not channels.groups
    reasons = {kept.name: kept.reasons for kept in channels.protected}
    assert any(f"stored as {encoding.name}" in reason for reason in reasons["first.weight[0]"])


def test_what_is_not_named_stays_bit_identical_and_the_original_as_it_was() -> None:
    network = network_of(STRUCTURES["residual"]())
    before = {name: value.clone() for name, value in network.graph.state_dict().items()}
    code = network.graph.code
    channels = Channels(network)
    cut = channels.resize({channels.group("body.3.first.0.weight[0]"): range(5)})
    after = cut.graph.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {
        "body.3.first.0.weight",
        *(f"body.3.first.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "body.3.second.0.weight",
    }
    assert all(torch.equal(value, before[name]) for name, value in network.graph.state_dict().items())
    assert network.graph.code == code
    assert cut.graph.get_submodule("body.3.first.0").out_channels == 5


def test_tied_weights_stay_tied() -> None:
    network = network_of(STRUCTURES["tied"]())
    channels = Channels(network)
    (width,) = [group for group in channels.groups if group.size == 24]
    assert width.statistic
    cut = channels.resize({width: range(10)}).graph
    emb = next(layer for layer in cut.modules() if isinstance(layer, nn.Embedding))
    heads = [layer for layer in cut.modules() if isinstance(layer, nn.Linear) and layer.weight is emb.weight]
    assert len(heads) == 1
    assert (emb.embedding_dim, heads[0].in_features) == (10, 10)


def test_attention_keeps_the_scale_that_it_was_trained_with() -> None:
    network = network_of(STRUCTURES["torch_attention"]())
    channels = Channels(network)
    (each,) = [group for group in channels.groups if group.size == 8]
    attention = torch.ops.aten.scaled_dot_product_attention.default
    (call,) = channels.resize({each: range(2)}).graph.graph.find_nodes(op="call_function", target=attention)
    assert call.kwargs["scale"] == pytest.approx(8**-0.5)


def test_a_plan_that_names_groups_is_replayed() -> None:
    made = STRUCTURES["plain"]()
    network = network_of(made)
    channels = Channels(network)
    kept = {group.name: list(range(0, group.size, 2)) for group in channels.groups}
    assert set(kept) == {"body.0.0.weight[0]", "body.2.0.weight[0]", "hidden.weight[0]"}
    found = resize(network, kept)
    wanted = channels.resize({group: kept[group.name] for group in channels.groups})
    assert torch.equal(*(answers(each, made[1])[0] for each in (found, wanted)))


@pytest.mark.parametrize("kept", [[], [0, 0], [3, 1], [-1, 2], [2, 64]], ids=str)
def test_positions_that_make_no_sense_are_refused(kept: list[int]) -> None:
    with pytest.raises(ModelpressError, match=r"hidden\.weight\[0\].* 0 to 63") as caught:
        resize(network_of(STRUCTURES["plain"]()), {"hidden.weight[0]": kept})
    assert caught.value.code == "invalid_request"


def test_a_group_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelpressError, match=r"no group head\.weight\[0\]"):
        resize(network_of(STRUCTURES["plain"]()), {"head.weight[0]": [0]})


def test_inputs_and_outputs_are_protected_with_the_reason() -> None:
    channels = Channels(network_of(STRUCTURES["plain"]()))
    reasons = {kept.name: kept.reasons for kept in channels.protected}
    assert reasons["head.weight[0]"] == ("an output of the network",)
    assert reasons["body.0.0.weight[1]"] == ("an input of the network",)


class Sorted(nn.Module):
    """An operator that no rule knows, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.diff(self.first(x), prepend=x[:, :1], dim=1))))


def test_an_operator_without_a_rule_keeps_what_it_touches_and_is_named() -> None:
    channels = Channels(network_of((Sorted(), (torch.randn(3, 6),))))
    assert [group.name for group in channels.groups] == ["second.weight[0]"]
    reasons = {kept.name: kept.reasons for kept in channels.protected}
    assert reasons["first.weight[0]"] == ("no rule for diff",)
    assert list(channels.unknown) == ["diff"]


class Scaled(nn.Module):
    """A sum along a dimension of a number, which has none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)) * torch.cumsum(self.scale, 0))


def test_a_number_without_dimensions_stops_no_analysis() -> None:
    channels = Channels(network_of((Scaled(), (torch.randn(3, 6),))))
    assert [group.name for group in channels.groups] == ["first.weight[0]"]


def test_a_rule_that_gives_other_shapes_than_were_traced_is_not_believed(monkeypatch) -> None:
    honest = analysis.find_rule
    monkeypatch.setattr(
        analysis, "find_rule", lambda target: (lambda _: []) if "relu" in str(target) else honest(target)
    )
    channels = Channels(network_of((TwoMatrices(), (torch.randn(3, 8),))))
    assert not channels.groups
    assert list(channels.unknown) == ["relu"]
    reasons = {kept.name: kept.reasons for kept in channels.protected}
    assert "the blocks of relu do not fit" in reasons["first.weight[0]"]


def some(groups: tuple[Group, ...]) -> dict[Group, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        group: torch.randperm(group.size, generator=generator)[: max(1, group.size // 2)].sort().values
        for group in groups
    }


@pytest.mark.parametrize(
    "name",
    [
        "heads_in_batch",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("split_shuffle", "grouped_query", "lstm", "volume")),
    ],
)
def test_a_cut_network_computes_the_same_in_onnxruntime_at_another_batch(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    made = STRUCTURES[name]()
    channels = Channels(network_of(made))
    cut = channels.resize(some(channels.groups))
    inputs = tuple(torch.cat([value, value.flip(0)])[:5] for value in made[1])
    export_onnx(cut, tmp_path / "cut.onnx")
    assert distance(run_onnx(tmp_path / "cut.onnx", inputs), answers(cut, inputs)) < 1e-4


def test_a_cut_network_is_cut_again() -> None:
    made = STRUCTURES["split_shuffle"]()
    channels = Channels(network_of(made))
    once = channels.resize(some(channels.groups))
    again = Channels(once)
    assert [group.size for group in again.groups] == [max(1, group.size // 2) for group in channels.groups]
    order = {group: torch.arange(group.size).flip(0) for group in again.groups}
    assert distance(answers(again.permuted(order), made[1]), answers(once, made[1])) < 2e-5


def test_one_member_alone_in_another_order_changes_the_outputs() -> None:
    """The control: the structures are loud enough for a wrong alignment to show."""
    for name in ("residual", "grouped", "torch_attention"):
        made = STRUCTURES[name]()
        network = network_of(made)
        before = answers(network, made[1])
        for group in Channels(network).groups:
            worst = 0.0
            for member in group.members:
                moved = member.tensor.detach().roll(1, member.dim)
                kept = member.tensor.data
                member.tensor.data = moved
                worst = max(worst, distance(answers(network, made[1]), before))
                member.tensor.data = kept
            assert worst > 1e-3, (name, group.name)
