"""Costs of a network against numbers worked out by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from core.network.describe import describe
from core.network.inspect import inspect, read
from core.network.liveness import Peak, find_peak


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


class Calls(nn.Module):
    """A module around a function, for products that are no layers."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.call = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def attend(_: nn.Module, x: Tensor) -> Tensor:
    query, key, value = x.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def gru(module: nn.Module, x: Tensor) -> Tensor:
    return module.rnn(x)[0]


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


STRUCTURES = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 12)),
    "conv2d": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 5, groups=4, padding=2)), (3, 10, 10)),
    "depthwise": (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 12, 1)), (6, 9, 9)),
    "conv3d": (nn.Conv3d(2, 4, 3, dilation=2), (2, 7, 8, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2), (4, 5, 5)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=3), (4, 5)),
    "linear on tokens": (nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8, bias=False)), (7, 8)),
    "norms": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)), (3, 4, 4)),
    "gru": (Calls(gru, rnn=nn.GRU(8, 6, 2, batch_first=True, bidirectional=True)), (5, 8)),
    "lstm": (Calls(gru, rnn=nn.LSTM(8, 6, batch_first=True)), (5, 8)),
    "attention": (attend, (7, 24)),
    "matmul": (lambda _, x: x @ x.transpose(1, 2) @ x, (5, 6)),
    "einsum": (lambda _, x: torch.einsum("bij,bkj->bik", x, x), (5, 6)),
    "einsum with a weight": (Calls(lambda m, x: torch.einsum("bij,hjk->bhik", x, m.w), w=weight(3, 6, 4)), (5, 6)),
    "plain weight": (Calls(lambda m, x: x @ m.w + m.b, w=weight(6, 4), b=weight(4)), (5, 6)),
    "baddbmm": (lambda _, x: torch.baddbmm(x @ x.transpose(1, 2), x, x.transpose(1, 2)), (5, 6)),
    "called twice": (Calls(lambda m, x: m.fc(torch.relu(m.fc(x))), fc=nn.Linear(6, 6)), (5, 6)),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_macs_and_parameters_are_those_that_torch_counts(name: str, save_pt2) -> None:
    structure, shape = STRUCTURES[name]
    module = structure if isinstance(structure, nn.Module) else Calls(structure)
    file = save_pt2(module, torch.randn(2, *shape))
    network = read(file)
    described = describe(network)
    # The kernels of the CPU hide what they multiply from the counter, plain ones do not.
    plain = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), sdpa_kernel(SDPBackend.MATH)
    with plain[0], plain[1], torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.graph(torch.randn(1, *shape))
    assert described.macs == counter.get_total_flops() // 2
    assert described.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_sizes_that_grow_are_named(save_pt2) -> None:
    flat = Calls(lambda m, x: m.fc(x.flatten(0, 1)).unflatten(0, (-1, 5)), fc=nn.Linear(6, 4))
    (row,) = inspect(save_pt2(flat, torch.randn(3, 5, 6))).layers
    assert (row.input_shape, row.output_shape) == (("5·batch", 6), ("5·batch", 4))
    assert row.activation_bytes == 5 * 4 * 4


def test_parameters_of_the_rows_are_counted_once(tied, save_pt2) -> None:
    module, example = tied
    description = inspect(save_pt2(module, example))
    assert sum(layer.parameters for layer in description.layers) == description.parameters


def test_the_planned_peak_says_where(save_pt2) -> None:
    module = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2))
    description = inspect(save_pt2(module, torch.randn(2, 4)))
    assert (description.planned_activation_bytes, description.planned_activation_node) == (2 * 100 * 4, "relu_default")
    assert description.counted_at == {"batch": 1}


@pytest.mark.parametrize(
    ("steps", "peak"),
    [
        ([(["x"], ["a"]), (["a"], ["y"])], Peak(30, 0)),
        ([(["x"], ["a"]), (["a"], ["b"]), (["a", "b"], ["y"])], Peak(60, 2)),
        ([(["x", "w"], ["y"])], Peak(20, 0)),
        ([(["x"], [])], Peak(10, None)),
    ],
)
def test_the_peak_is_what_lives_at_once(steps: list, peak: Peak) -> None:
    sizes = {"x": 10, "a": 20, "b": 30, "y": 10}
    assert find_peak(steps, sizes, inputs=["x"], outputs=["y"]) == peak
