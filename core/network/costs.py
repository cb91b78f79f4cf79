"""Multiply-accumulates of layers and of calls, from the shapes of what goes in and comes out."""

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten

# One product for each element of the output and of the last dimension of this argument.
_PRODUCTS = {
    aten.matmul.default: 0,
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.mv.default: 0,
    aten.dot.default: 0,
    aten.inner.default: 0,
    aten.linear.default: 0,
    aten.addmm.default: 1,
    aten.addmv.default: 1,
    aten.baddbmm.default: 1,
}
# Products of other makes, with a computed weight too: counted by torch on their shapes.
_COUNTED_BY_TORCH = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("einsum", "tensordot", "bilinear", "addbmm", "chain_matmul", "linalg_multi_dot", "cdist"),
    }
)


def layer_macs(layer: nn.Module, source: torch.Tensor, output: torch.Tensor) -> int:
    """Multiply-accumulates of one call: elements of the output times terms of each sum; 0 where nothing is summed."""
    match layer:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            # A weight is (out, in / groups, taps …).
            return output.numel() * math.prod(layer.weight.shape[1:])
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            # A weight is (in, out / groups, taps …), and every element of the input meets all of its own.
            return source.numel() * math.prod(layer.weight.shape[1:])
        case nn.RNNBase():
            # Each matrix is used once at each position of the sequence.
            positions = source.numel() // source.shape[-1]
            return positions * sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
        case nn.Linear():
            return output.numel() * layer.in_features
        case _:
            return 0


def call_macs(node: fx.Node, values: Mapping[fx.Node, object]) -> int:
    """Multiply-accumulates of a call that is no layer; `values` are fake tensors (see `flat.trace_shapes`)."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return 0
    if node.target in _PRODUCTS:
        factor = cast("torch.Tensor", values[cast("fx.Node", node.args[_PRODUCTS[node.target]])])
        return cast("torch.Tensor", values[node]).numel() * factor.shape[-1]
    if node.target is aten.scaled_dot_product_attention.default:
        # One tensor may be query and key, or all three.
        query, key, value = (cast("torch.Tensor", values[cast("fx.Node", each)]).shape for each in node.args[:3])
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if node.target.overloadpacket.__name__ in _COUNTED_BY_TORCH:
        return _count(node, values)
    return 0


def _count(node: fx.Node, values: Mapping[fx.Node, object]) -> int:
    """By torch's own counter, which sees what the call is made of; it counts a product and its sum as two."""
    known = cast("Callable[[fx.Node], fx.node.Argument]", values.__getitem__)
    arguments, options = cast(
        "tuple[tuple[object, ...], dict[str, object]]", fx.map_arg((node.args, node.kwargs), known)
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        cast("torch._ops.OpOverload", node.target)(*arguments, **options)
    return int(counter.get_total_flops()) // 2
