"""The batch: freed where the export baked it in, fixed with a reason where samples depend on each other."""

import pytest
import torch
import transformers
from torch import Tensor, nn

from core.network.batch import free_batch
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
    assert free_batch(graph, (torch.zeros(2, 4),), declared=True, seed=0).graph is graph


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
