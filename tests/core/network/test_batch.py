"""The batch: freed where the export baked it in, fixed with a reason where samples depend on each other."""

import pytest
import torch
import transformers
from torch import Tensor, nn

from core.data.synthetic import SAMPLES, Known, synthesise
from core.measure.feeds import make_feed
from core.measure.quality import compare_quality
from core.measure.runtime import fixed_batch, open_session
from core.network.batch import free_batch
from core.network.export import export_onnx, export_pt2
from core.network.inspect import inspect, read


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("baked", [1, 2, 4])
def test_attention_is_freed_whatever_batch_it_was_exported_with(
    attention, save_pt2, baked: int, decomposed: bool
) -> None:
    module, _ = attention
    network = read(save_pt2(module, torch.randn(baked, 1, 8, 8), dynamic=False, decomposed=decomposed))
    assert (network.batch, network.batch_reason) == ("freed", None)
    assert network.inputs[0].shape == ("batch", 1, 8, 8)
    inputs = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network.graph(inputs), module.eval()(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("baked", [1, 3])
def test_attention_is_freed_in_onnx_files_too(attention, save_onnx, baked: int) -> None:
    module, _ = attention
    path = save_onnx(module, torch.randn(baked, 1, 8, 8), dynamic=False)
    assert inspect(path).batch == "freed"
    inputs = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(read(path).graph(inputs), module.eval()(inputs), rtol=1e-4, atol=1e-5)


class Baked(nn.Module):
    """Views that merge the batch with another dimension, and constants made for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        halves = self.fc(x).view(batch * 2, 4).relu()
        return torch.cat([halves.reshape(batch, 8), torch.ones(batch, 2)], 1) + torch.zeros(batch, 10)


@pytest.mark.parametrize("baked", [1, 4])
def test_merged_views_and_constants_are_freed(save_pt2, baked: int) -> None:
    module = Baked()
    network = read(save_pt2(module, torch.randn(baked, 6), dynamic=False))
    assert network.batch == "freed"
    inputs = torch.randn(3, 6)
    with torch.no_grad():
        torch.testing.assert_close(network.graph(inputs), module(inputs))


class Centred(nn.Module):
    """Subtracts the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


@pytest.mark.parametrize("dynamic", [False, True])
def test_samples_that_depend_on_each_other_fix_the_batch(save_pt2, dynamic: bool) -> None:
    description = inspect(save_pt2(Centred(), torch.randn(4, 6), dynamic=dynamic))
    assert description.batch == "fixed"
    assert description.batch_reason
    assert description.inputs[0].shape == (4, 6)
    assert description.warnings


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


def test_an_output_without_a_batch_fixes_it(save_pt2) -> None:
    assert read(save_pt2(Summed(), torch.randn(4, 6))).batch == "fixed"


class Paired(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y


def test_inputs_without_a_common_first_dimension_fix_the_batch(save_pt2) -> None:
    network = read(save_pt2(Paired(), torch.randn(4, 6), torch.randn(6, 2), dynamic=False))
    assert (network.batch, network.batch_reason) == ("fixed", "The inputs do not share a first dimension.")


def test_nothing_is_rewritten_when_the_batch_is_free_already() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 2)))
    assert free_batch(graph, (torch.zeros(2, 4),), [("n", 4)], seed=0).graph is graph


class Positional(nn.Module):
    """A model of transformers as its documentation exports it."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def transformer(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    if name == "vit":
        config = transformers.ViTConfig(**small, image_size=16, patch_size=8)
        return Positional(transformers.ViTForImageClassification(config), "pixel_values"), (torch.randn(3, 3, 16, 16),)
    ids = torch.randint(0, 50, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    if name == "bert":
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**small, vocab_size=50))
        return Positional(model, "input_ids", "attention_mask"), (ids, mask)
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2, use_cache=False
    )
    return Positional(transformers.GPT2LMHeadModel(config), "input_ids", "attention_mask"), (ids, mask)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.parametrize("name", ["vit", "bert", "gpt2"])
def test_a_default_export_of_a_transformer_is_freed(name: str, form: str, batch: int, save_pt2, save_onnx) -> None:
    torch.manual_seed(0)
    module, inputs = transformer(name)
    save = save_pt2 if form == "pt2" else save_onnx
    network = read(save(module, *(tensor[:batch] for tensor in inputs), dynamic=False))
    assert network.batch == "freed", network.batch_reason
    with torch.no_grad():
        torch.testing.assert_close(network.graph(*inputs), module.eval()(*inputs), rtol=1e-4, atol=1e-5)


class Stepping(nn.Module):
    """One step of an LSTM whose state, (h and c, batch, features), is put in and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 5)
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = self.cell(x[None], (state[:1], state[1:]))[1]
        return self.head(h[0]), torch.cat([h, c])


class Reading(nn.Module):
    """An LSTM that takes (steps, batch, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


def stepping_text(x: str, state: str) -> str:
    """The same step as ONNX; the sizes of both inputs are written as given."""
    return f"""g (float[{x},6] x, float[2,{state},5] s) => (float[a,b] y, float[c,d,e] t)
        <int64[1] zero = {{0}}, int64[2] both = {{1,1}}> {{
        steps = Unsqueeze(x, zero) h, c = Split<axis = 0>(s, both)
        o, hn, cn = LSTM<hidden_size = 5>(steps, w, r, b, "", h, c)
        y = Squeeze(hn, zero) t = Concat<axis = 0>(hn, cn) }}""".replace('""', "")


WEIGHTS = {"w": torch.randn(1, 20, 6), "r": torch.randn(1, 20, 5), "b": torch.randn(1, 40)}


def answers(network, *inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(network.graph(*inputs))


@pytest.mark.parametrize(
    ("x", "state", "batch"),
    [
        ("batch", "batch", "dynamic"),
        ("n", "n", "dynamic"),
        ("n", "m", "dynamic"),
        ("1", "1", "freed"),
    ],
)
def test_a_state_with_its_batch_second_is_freed(write_onnx, x: str, state: str, batch: str) -> None:
    path = write_onnx(stepping_text(x, state), **WEIGHTS)
    description = inspect(path)
    assert (description.mode, description.batch, description.batch_reason) == ("network", batch, None)
    assert [tensor.shape for tensor in description.inputs] == [("batch", 6), (2, "batch", 5)]
    assert [tensor.shape for tensor in description.outputs] == [("batch", 5), (2, "batch", 5)]
    network, inputs = read(path), (torch.randn(3, 6), torch.randn(2, 3, 5))
    many = answers(network, *inputs)
    for row in range(3):
        one = answers(network, inputs[0][row : row + 1], inputs[1][:, row : row + 1])
        torch.testing.assert_close(one[0], many[0][row : row + 1])
        torch.testing.assert_close(one[1], many[1][:, row : row + 1])


@pytest.mark.parametrize("baked", [1, 3])
def test_a_state_is_freed_in_pt2_files_too(save_pt2, baked: int) -> None:
    module = Stepping()
    network = read(save_pt2(module, torch.randn(baked, 6), torch.randn(2, baked, 5), dynamic=False))
    assert (network.batch, network.inputs[1].shape) == ("freed", (2, "batch", 5))
    inputs = torch.randn(4, 6), torch.randn(2, 4, 5)
    with torch.no_grad():
        for ours, theirs in zip(network.graph(*inputs), module(*inputs), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_of_two_free_sizes_the_one_along_which_samples_are_independent_is_the_batch(save_onnx, write_onnx) -> None:
    text = """g (float[steps,n,6] x) => (float[a,b,c,d] y) { y = LSTM<hidden_size = 5>(x, w, r, b) }"""
    network = read(write_onnx(text, **WEIGHTS))
    assert (network.batch, network.inputs[0].shape) == ("dynamic", ("steps", "batch", 6))
    assert network.outputs[0].shape == ("steps", 1, "batch", 5)


def test_a_sequence_of_one_stream_stays_free_and_takes_one_sample(write_onnx) -> None:
    text = """g (float[steps,6] x, float[1,1,5] h, float[1,1,5] c) => (float[a,b,e,d] y) <int64[1] one = {1}> {
        s = Unsqueeze(x, one) y = LSTM<hidden_size = 5>(s, w, r, b, , h, c) }"""
    network = read(write_onnx(text, **WEIGHTS))
    assert network.batch == "fixed"
    assert "steps" in str(network.batch_reason)
    assert network.inputs[0].shape == ("steps", 6)
    assert network.outputs[0].shape == ("steps", 1, 1, 5)


def test_a_network_whose_state_has_its_batch_second_is_written_again(write_onnx, tmp_path) -> None:
    network = read(write_onnx(stepping_text("n", "n"), **WEIGHTS))
    export_pt2(network, tmp_path / "out.pt2")
    export_onnx(network, tmp_path / "out.onnx")
    again = inspect(tmp_path / "out.onnx")
    assert [tensor.shape for tensor in again.inputs] == [("batch", 6), (2, "batch", 5)]
    session = open_session(tmp_path / "out.onnx", 1)
    assert fixed_batch(session) is None
    dataset = synthesise(again.inputs, Known(), 0)
    assert again.can_be_drawn()
    for feed in (make_feed(session, dataset, 4), make_feed(session, None, 4)):
        assert {name: value.shape for name, value in feed.items()} == {"x": (4, 6), "s": (2, 4, 5)}
    compared = compare_quality(tmp_path / "out.onnx", tmp_path / "out.onnx", dataset, threads=1)
    assert compared.original.n == SAMPLES["evaluation"]


def test_a_file_baked_for_one_state_is_fed_one_sample(write_onnx) -> None:
    session = open_session(write_onnx(stepping_text("1", "1"), **WEIGHTS), 1)
    assert fixed_batch(session) == 1
    assert {name: value.shape for name, value in make_feed(session, None, 1).items()} == {"x": (1, 6), "s": (2, 1, 5)}


def test_a_cut_through_the_samples_is_no_free_batch() -> None:
    class FirstThree(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:3] * 2

    graph = torch.fx.symbolic_trace(FirstThree())
    found = free_batch(graph, [torch.randn(20, 4)], [(20, 4)], seed=0)
    assert (found.state, found.reason) == ("fixed", "Output 0 has no size that grows with the batch.")


class Counted(nn.Module):
    """What comes in, and how often."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x


def test_a_file_with_many_free_sizes_is_not_tried_with_each() -> None:
    counted, graph, inputs = Counted(), torch.fx.Graph(), [torch.randn(2 + number, 3) for number in range(60)]
    values = [graph.placeholder(f"x{number}") for number in range(60)]
    graph.output((graph.call_module("counted", (values[0],)), *values[1:]))
    network = torch.fx.GraphModule({"counted": counted}, graph)
    found = free_batch(network, inputs, [(f"n{number}", f"m{number}") for number in range(60)], seed=0)
    assert found.state == "fixed"
    assert 0 < counted.runs < 300
