"""`round_weights` on whole networks: in graph order, against the float network, in bounded memory."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn

from core.compression import layer_walk
from core.compression.candidates import put_encodings
from core.compression.quantize.rounding import round_weights
from core.compression.relay import Relay, stages_of
from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.encodings import AffineInteger, Codebook, Elementwise, Masked, packed_grid
from core.network.network import Network
from core.specs.rounding import Rounding


class CancelledError(Exception):
    """What stops a step from within its progress."""


class Mixed(nn.Module):
    """Convolutions plain, depth-wise and transposed, a sum, and a product; as readers leave them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        relu, add = torch.ops.aten.relu.default, torch.ops.aten.add.Tensor
        x = relu(self.first(x))
        x = relu(add(x, self.point(relu(self.deep(x)))))
        return self.out(torch.flatten(relu(self.up(x)), 1))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    graph = fx.symbolic_trace(Mixed().eval())
    described = [
        TensorDescription(name=name, dtype="float32", shape=shape)
        for name, shape in (("x", ("batch", 2, 4, 4)), ("y", ("batch", 5)))
    ]
    return Network(graph=graph, inputs=(described[0],), outputs=(described[1],))


def samples() -> Iterator[tuple[Tensor, ...]]:
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(3, 2, 4, 4, generator=draw)
    for _ in range(4):
        mixed = torch.randn(16, 3, generator=draw) @ base.flatten(1)
        yield ((mixed + 0.3 * torch.randn(16, 32, generator=draw)).reshape(16, 2, 4, 4),)


def templates_of(network: Network, bits: int = 3) -> dict[str, Elementwise]:
    found: dict[str, Elementwise] = {}
    for name, parameter in network.graph.named_parameters():
        if name.endswith("weight"):
            axis = 1 if name.startswith("up") else 0
            found[name] = AffineInteger.of(parameter, grid=packed_grid(bits), axis=axis)
    return found


def error(network: Network, encodings: dict[str, Elementwise]) -> float:
    found = put_encodings(network, encodings)
    with torch.no_grad():
        return sum(float((network.graph(*x) - found.graph(*x)).square().mean()) for x in samples())


def tell(fraction: float, message: str) -> None:
    assert 0 <= fraction <= 1, message


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_the_answers_are_nearer_to_the_float_ones(network: Network, method: str) -> None:
    templates = templates_of(network)
    rounding = Rounding.model_validate({"method": method, "steps": 150, "scales": "nearest"})
    before = {name: parameter.detach().clone() for name, parameter in network.graph.named_parameters()}
    found = round_weights(network, templates, rounding, samples, tell)
    assert found.keys() == templates.keys()
    for name, encoding in found.items():
        assert torch.equal(encoding.sides()["scale"][1], templates[name].sides()["scale"][1])
        assert not torch.equal(encoding.codes, templates[name].codes), name
    assert error(network, found) < 0.6 * error(network, templates)
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.graph.named_parameters())


def test_scales_that_are_chosen_with_the_weights_bring_them_nearer(network: Network) -> None:
    templates = templates_of(network, bits=2)
    fixed, chosen = (
        round_weights(network, templates, Rounding(method="gptq", scales=scales), samples, tell)
        for scales in ("nearest", "search")
    )
    assert error(network, chosen) < 0.9 * error(network, fixed)
    for name, encoding in chosen.items():
        scale = encoding.sides()["scale"][1]
        assert scale.shape == templates[name].sides()["scale"][1].shape
        assert bool((scale > 0).all())
        assert encoding.name == templates[name].name


def test_books_are_rounded_too_and_by_gptq_where_adaround_cannot(network: Network) -> None:
    book = torch.linspace(-0.4, 0.4, 6)
    templates: dict[str, Elementwise] = {
        name: Codebook.of(network.graph.get_parameter(name).detach(), book * (1 if name != "out.weight" else 0.3))
        for name in templates_of(network)
    }
    found = round_weights(network, templates, Rounding(method="adaround"), samples, tell)
    assert error(network, found) < 0.7 * error(network, templates)


def test_nearest_runs_no_samples(network: Network) -> None:
    def refuse() -> Iterator[tuple[Tensor, ...]]:
        raise AssertionError("samples were asked for")

    templates = templates_of(network)
    assert round_weights(network, templates, Rounding(), refuse, tell) == templates


def test_masks_stay(network: Network) -> None:
    weight = network.graph.get_parameter("out.weight")
    mask = weight.abs() > weight.abs().median()
    weight.data = torch.where(mask, weight, 0.0)
    templates = templates_of(network)
    inner = templates["out.weight"]
    network.encodings["out.weight"] = Masked(mask, inner)
    found = round_weights(network, templates, Rounding(method="gptq"), samples, tell)
    assert not found["out.weight"].decode()[~mask].any()
    assert error(network, found) < error(network, templates)


def test_without_room_for_values_in_between_it_gives_nearly_the_same(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates, asked = templates_of(network), Rounding(method="gptq")
    roomy = round_weights(network, templates, asked, samples, tell)
    again = round_weights(network, templates, asked, samples, tell)
    assert all(torch.equal(again[name].codes, encoding.codes) for name, encoding in roomy.items())
    monkeypatch.setattr(layer_walk, "KEPT_BYTES", 0)
    alike = round_weights(network, templates, asked, samples, tell)
    assert all(torch.equal(alike[name].codes, encoding.codes) for name, encoding in roomy.items())
    monkeypatch.setattr(layer_walk, "MOST_MACS", 1.0)
    at_once = round_weights(network, templates, asked, samples, tell)
    monkeypatch.setattr(layer_walk, "STAGE_BYTES", 1)
    one_by_one = round_weights(network, templates, asked, samples, tell)
    assert all(torch.equal(one_by_one[name].codes, encoding.codes) for name, encoding in roomy.items())
    assert error(network, at_once) < 0.9 * error(network, templates)


def test_few_rows_are_taken_of_many(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_walk, "MOST_ROWS", 128)
    monkeypatch.setattr(layer_walk, "ROWS_A_COLUMN", 1)
    templates = templates_of(network)
    found = round_weights(network, templates, Rounding(method="gptq"), samples, tell)
    assert error(network, found) < 0.8 * error(network, templates)


def test_dead_channels_and_constant_samples_give_numbers(network: Network) -> None:
    network.graph.get_parameter("first.weight").data[3] = 0.0
    network.graph.get_parameter("first.bias").data[3] = -1.0
    templates = templates_of(network)

    def constant() -> Iterator[tuple[Tensor, ...]]:
        yield (torch.full((8, 2, 4, 4), 0.5),)

    for given in (samples, constant):
        found = round_weights(network, templates, Rounding(method="gptq"), given, tell)
        assert all(torch.isfinite(encoding.decode()).all() for encoding in found.values())


def test_samples_that_are_no_numbers_are_an_error(network: Network) -> None:
    def broken() -> Iterator[tuple[Tensor, ...]]:
        yield (torch.full((8, 2, 4, 4), torch.nan),)

    with pytest.raises(ModelpressError, match="NaN"):
        round_weights(network, templates_of(network), Rounding(method="gptq"), broken, tell)


def test_too_few_samples_for_a_batch_are_an_error(network: Network) -> None:
    with pytest.raises(ModelpressError, match="too few calibration samples"):
        round_weights(network, templates_of(network), Rounding(method="gptq"), lambda: iter(()), tell)


class Spread(nn.Module):
    """Sums whose sides have different shapes: a table of positions, and a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mean, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)
        self.places = nn.Parameter(torch.randn(1, 9, 8))

    def forward(self, x: Tensor) -> Tensor:
        aten = torch.ops.aten
        places = aten.slice.Tensor(self.places, 1, 0, 5)
        embedded = aten.relu.default(aten.add.Tensor(self.embed(x), places))
        return self.out(aten.add.Tensor(self.mean(aten.mean.dim(x, [1], True)), embedded))


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_sums_of_different_shapes_are_no_streams(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    graph = fx.symbolic_trace(Spread().eval())
    described = [TensorDescription(name=name, dtype="float32", shape=("batch", 5, 4)) for name in ("x", "y")]
    spread = Network(graph=graph, inputs=(described[0],), outputs=(described[1],))
    templates = templates_of(spread)
    seen: list[bool] = []
    rows = layer_walk.output_rows
    monkeypatch.setattr(layer_walk, "output_rows", lambda *given: seen.append(True) or rows(*given))
    asked = Rounding.model_validate({"method": method, "steps": 20})
    found = round_weights(spread, templates, asked, lambda: iter([(torch.randn(6, 5, 4),)]), tell)
    assert found.keys() == templates.keys()
    assert not seen


def test_rows_are_counted_by_sample_however_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.reshape(x, (-1, 4)))

    graph = fx.symbolic_trace(Flat().eval())
    described = [TensorDescription(name=name, dtype="float32", shape=("batch", 50, 4)) for name in ("x", "y")]
    flat = Network(graph=graph, inputs=(described[0],), outputs=(described[1],))
    monkeypatch.setattr(layer_walk, "MOST_ROWS", 64)
    counted: list[int] = []
    rows = layer_walk.take_rows
    monkeypatch.setattr(
        layer_walk, "take_rows", lambda layer, value, few: counted.append(len(few)) or rows(layer, value, few)
    )
    batches = [(torch.randn(8, 50, 4),) for _ in range(4)]
    round_weights(flat, templates_of(flat), Rounding(method="gptq"), lambda: iter(batches), tell)
    assert sum(counted) <= 2 * (64 + len(batches))


def test_a_cancel_is_noticed_between_batches(network: Network) -> None:
    calls = []

    def cancel(fraction: float, message: str) -> None:
        calls.append((fraction, message))
        if len(calls) == 3:
            raise CancelledError

    with pytest.raises(CancelledError):
        round_weights(network, templates_of(network), Rounding(method="gptq"), samples, cancel)
    assert [fraction for fraction, _ in calls] == [0.0, 0.0, 0.0]


def test_a_relay_gives_what_layers_take(network: Network) -> None:
    nodes = [node for node in network.graph.graph.nodes if node.op == "call_module"]
    batches = list(samples())
    for keep in (True, False):
        relay = Relay(network.graph, samples, keep=keep)
        for stage in stages_of(nodes):
            given = list(relay.reach(stage))
            assert len(given) == len(batches)
            if stage.nodes[0].name == "first":
                assert all(
                    torch.equal(each["first"].input, batch[0]) for each, batch in zip(given, batches, strict=True)
                )
            if stage.nodes[0].name == "point":
                first = torch.relu(network.graph.get_submodule("first")(batches[0][0]))
                assert given[0]["point"].beside is not None
                assert torch.equal(given[0]["point"].beside, first)
