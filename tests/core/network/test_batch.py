"""The batch: freed where the export baked it in, fixed with a reason where samples depend on each other."""

import pytest
import torch
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
