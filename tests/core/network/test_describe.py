"""Costs of a network against numbers worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from core.network.inspect import inspect
from core.network.liveness import peak_live_bytes


def test_layers_and_their_costs(residual, save_pt2) -> None:
    module, example = residual
    description = inspect(save_pt2(module, example))
    rows = {layer.name: layer for layer in description.layers}
    stem, norm, head = rows["stem.0"], rows["stem.1"], rows["fc"]
    assert (stem.kind, stem.weight_shape, stem.output_shape) == ("conv2d", (8, 3, 3, 3), ("batch", 8, 8, 8))
    assert (stem.parameters, stem.macs, stem.activation_bytes) == (216, 8 * 8 * 8 * 27, 8 * 8 * 8 * 4)
    assert (norm.kind, norm.parameters, norm.macs) == ("batch_norm", 16, 0)
    assert (head.parameters, head.macs) == (36, 32)
    assert description.macs == sum(layer.macs for layer in description.layers)
    assert description.operators == {"add": 1, "batch_norm": 1, "conv2d": 2, "linear": 1, "mean": 1, "relu": 2}
    assert (description.outputs[0].name, description.outputs[0].shape) == ("output", ("batch", 4))


def test_attention_counts_its_products(attention, save_pt2) -> None:
    module, example = attention
    description = inspect(save_pt2(module, example))
    layers = sum(layer.macs for layer in description.layers)
    # Four heads of five tokens: scores and their sums, each 5·5·4 products a head.
    assert description.macs - layers == 2 * 4 * 5 * 5 * 4


def test_costs_are_for_one_sample_whatever_the_batch(save_pt2) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return y - y.mean(0, keepdim=True)

    description = inspect(save_pt2(Centred(), torch.randn(4, 3), dynamic=False))
    assert (description.batch, description.macs) == ("fixed", 6)


def test_a_tied_layer_says_to_whom(tied, save_pt2) -> None:
    module, example = tied
    description = inspect(save_pt2(module, example))
    assert [layer.kind for layer in description.layers] == ["embedding", "linear", "linear"]
    assert description.layers[2].tied_to == description.layers[0].name
    assert description.parameters == 50 * 12 + 12 * 12 + 12


def test_both_formats_describe_the_same_network(residual, save_pt2, save_onnx) -> None:
    module, example = residual
    pt2, onnx = inspect(save_pt2(module, example)), inspect(save_onnx(module, example))
    assert (onnx.macs, onnx.planned_activation_bytes) == (pt2.macs, pt2.planned_activation_bytes)
    assert {layer.name for layer in onnx.layers} == {"stem.0", "block", "fc"}
    assert onnx.bytes_stripped < (onnx.parameters * 4) + 2500


@pytest.mark.parametrize(
    ("steps", "peak"),
    [
        ([(["x"], ["a"]), (["a"], ["y"])], 30),
        ([(["x"], ["a"]), (["a"], ["b"]), (["a", "b"], ["y"])], 60),
        ([(["x", "w"], ["y"])], 20),
    ],
)
def test_the_peak_is_what_lives_at_once(steps: list, peak: int) -> None:
    sizes = {"x": 10, "a": 20, "b": 30, "y": 10}
    assert peak_live_bytes(steps, sizes, inputs=["x"], outputs=["y"]) == peak
