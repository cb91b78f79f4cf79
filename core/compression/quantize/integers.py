"""The exact integer reference of a quantized network, and a model of the kernels that are not exact.

A quantized layer multiplies uint8 activations u by int8 or uint8 weights w and adds up in 32 bits, which is exact. x86
without VNNI has only `vpmaddubsw` for this: it adds two neighbouring products u·w with int8 w into 16 bits and cuts off
what is outside −32768 … 32767 (Intel SDM, PMADDUBSW). Weights of 7 bits cannot get there: 2 · 255 · 63 = 32130.
"""

from typing import Literal, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from core.compression.quantize.placement import gives_on
from core.network.encodings import ActivationGrid, AffineInteger, DynamicGrid, Encoding, Masked
from core.network.export_graph import INTEGER_LAYERS
from core.network.network import Network

Arithmetic = Literal["exact", "pairs_of_16_bits"]

LOWEST_16, HIGHEST_16 = -32768, 32767
# Pairs of products that are held at once.
_CHUNK = 8_000_000


@final
class IntegerNetwork(fx.Interpreter):
    """Runs a quantized network layer by layer on integers; `cut` counts, by layer, sums that lost something."""

    def __init__(self, network: Network, arithmetic: Arithmetic) -> None:
        super().__init__(network.graph)
        self._encodings = network.encodings
        self._arithmetic = arithmetic
        self.cut: dict[str, int] = {}
        self.sums: dict[str, int] = {}
        # Of values that are rounded by their own range, as it was in this run.
        self._dynamic: dict[fx.Node, ActivationGrid] = {}

    def answer(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The first output."""
        with torch.no_grad():
            found = self.run(*inputs)
        return cast("Tensor", found if isinstance(found, Tensor) else found[0])

    def run_node(self, n: fx.Node) -> object:
        """A quantized layer on integers, anything else as it is."""
        if n.op != "call_module":
            return super().run_node(n)
        path = str(n.target)
        layer, encoding = self.module.get_submodule(path), _kernel_integers(self._encodings.get(f"{path}.weight"))
        if isinstance(layer, DynamicGrid):
            self._dynamic[n] = layer.grid_of(cast("Tensor", self.env[n.all_input_nodes[0]]))
        grid = self._grid_before(n)
        if grid is None or encoding is None or not isinstance(layer, INTEGER_LAYERS):
            return super().run_node(n)
        x = grid.integers(cast("Tensor", self.env[n.all_input_nodes[0]]))
        # Those of the parameter: what a mask leaves out is zero.
        kept = layer.get_parameter("weight") != 0
        weight = torch.where(kept, encoding.integers.to(torch.float64), float(encoding.grid.zero_point))
        shift = encoding.grid.zero_point
        sums = self._products(path, layer, x, weight, padding_value=float(grid.zero_point))
        # Zero points are taken out after the product, as the kernels do: Σ(u−z)(w−s) = Σuw − zΣw − sΣu + Kzs.
        sums = sums - float(grid.zero_point) * _spread(layer, weight.flatten(1).sum(1))
        if shift:
            ones = torch.ones_like(weight)
            shifted = self._exact(layer, x - float(grid.zero_point), ones)
            sums = sums - shift * shifted
        scale = _spread(layer, encoding.scale.double()) * grid.scale.double()
        value = sums * scale
        bias = layer._parameters.get("bias")
        if bias is not None:
            value = value + _spread(layer, bias.detach().double())
        return value.float()

    def _grid_before(self, node: fx.Node) -> ActivationGrid | None:
        """The grid of a layer's input, through operators that give values on as they are."""
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        while source is not None and gives_on(source):
            source = source.all_input_nodes[0]
        if source is None or source.op != "call_module":
            return None
        found = self._dynamic.get(source) or self.module.get_submodule(str(source.target))
        return found if isinstance(found, ActivationGrid) and found.has_kernel else None

    def _products(self, path: str, layer: nn.Module, x: Tensor, weight: Tensor, *, padding_value: float) -> Tensor:
        """Σ u·w of raw integers, padding included, exactly or as the pairs' kernel does."""
        padded = _pad(layer, x.double(), padding_value)
        exact = self._exact(layer, padded, weight, padded=True)
        signed = bool((weight < 0).any())
        # The depthwise kernel multiplies one by one.
        depthwise = isinstance(layer, nn.Conv1d | nn.Conv2d) and weight.shape[1] == 1 and layer.groups > 1
        if self._arithmetic == "exact" or not signed or depthwise:
            return exact
        loss = _pairwise_loss(layer, padded, weight)
        self.cut[path] = self.cut.get(path, 0) + int((loss != 0).sum())
        self.sums[path] = self.sums.get(path, 0) + loss.numel()
        return exact - loss

    def _exact(self, layer: nn.Module, x: Tensor, weight: Tensor, *, padded: bool = False) -> Tensor:
        # Doubles hold every sum of fewer than 2**37 products of 8 bits exactly.
        x = x.double()
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight)
        conv = cast("nn.Conv2d", layer)
        if not padded:
            x = _pad(layer, x, 0.0)
        convolve = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
        return convolve(x, weight, None, conv.stride, 0, conv.dilation, conv.groups)


def _kernel_integers(encoding: Encoding | None) -> AffineInteger | None:
    inner = encoding.inner if isinstance(encoding, Masked) else encoding
    return inner if isinstance(inner, AffineInteger) and inner.has_kernel else None


def _spread(layer: nn.Module, channels: Tensor) -> Tensor:
    """(channels,) so that it broadcasts against the layer's output."""
    taps = 1 if isinstance(layer, nn.Conv1d) else 2 if isinstance(layer, nn.Conv2d) else 0
    return channels.reshape(-1, *[1] * taps)


def _pad(layer: nn.Module, x: Tensor, value: float) -> Tensor:
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        return x
    if isinstance(layer.padding, str):
        pads = layer._reversed_padding_repeated_twice if layer.padding == "same" else [0]
        return F.pad(x, pads, value=value) if any(pads) else x
    pads = [side for size in reversed(layer.padding) for side in (int(size), int(size))]
    return F.pad(x, pads, value=value) if any(pads) else x


def _pairwise_loss(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Σ over neighbouring pairs of (u₀w₀ + u₁w₁) minus the same cut to 16 bits; in the shape of the layer's output.

    Neighbours are inputs of a linear layer, and channels at one position of a convolution's window, as the packed
    weights of onnxruntime's channels-last kernels lie.
    """
    if isinstance(layer, nn.Linear):
        rows = x.flatten(0, -2)
        return _loss_of_rows(rows, weight).reshape(*x.shape[:-1], weight.shape[0])
    conv = cast("nn.Conv2d", layer)
    if isinstance(layer, nn.Conv1d):
        steps = (1, *layer.stride), (1, *layer.dilation)
        return _pairwise_windows(x.unsqueeze(2), weight.unsqueeze(2), *steps, groups=layer.groups).squeeze(2)
    return _pairwise_windows(x, weight, conv.stride, conv.dilation, groups=conv.groups)


def _pairwise_windows(
    x: Tensor, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], *, groups: int
) -> Tensor:
    size, taps = tuple(weight.shape[2:]), weight.shape[2] * weight.shape[3]
    height, width = ((x.shape[2 + i] - dilation[i] * (size[i] - 1) - 1) // stride[i] + 1 for i in range(2))
    parts = []
    for part, kernel in zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True):
        windows = F.unfold(part, size, dilation=dilation, stride=stride)
        channels = part.shape[1]
        # unfold gives channels × taps; the kernels walk taps first, channels within.
        ordered = windows.reshape(x.shape[0], channels, taps, -1).permute(0, 3, 2, 1).reshape(-1, taps * channels)
        flat = kernel.flatten(2).permute(0, 2, 1).reshape(kernel.shape[0], -1)
        loss = _loss_of_rows(ordered, flat).reshape(x.shape[0], height * width, -1)
        parts.append(loss.transpose(1, 2).reshape(x.shape[0], -1, height, width))
    return torch.cat(parts, 1)


def _loss_of_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """What is cut off for each of rows (n, k) and outputs (o, k), shape (n, o)."""
    if rows.shape[1] % 2:
        rows, weight = F.pad(rows, (0, 1)), F.pad(weight, (0, 1))
    # Only pairs of large weights can leave 16 bits: 255 · (|w₀| + |w₁|) > 32767.
    pairs = weight.reshape(weight.shape[0], -1, 2)
    loss = torch.zeros(rows.shape[0], weight.shape[0], dtype=torch.float64)
    inputs = rows.reshape(rows.shape[0], -1, 2)
    reaches = pairs.abs().sum(2) * 255 > HIGHEST_16
    for output in range(weight.shape[0]):
        where = reaches[output].nonzero().flatten()
        step = max(_CHUNK // max(where.numel(), 1), 1)
        for start in range(0, rows.shape[0] if where.numel() else 0, step):
            sums = (inputs[start : start + step, where] * pairs[output, where]).sum(2)
            loss[start : start + step, output] = (sums - sums.clamp(LOWEST_16, HIGHEST_16)).sum(1)
    return loss
