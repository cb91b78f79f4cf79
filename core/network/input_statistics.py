"""What a network knows of its inputs: the means and deviations that its first layers were trained on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from core.network.network import Network

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_AFFINE: Mapping[object, str] = {
    torch.ops.aten.add.Tensor: "add",
    torch.ops.aten.sub.Tensor: "sub",
    torch.ops.aten.mul.Tensor: "mul",
    torch.ops.aten.div.Tensor: "div",
}
_ASIDE = (torch.ops.aten.sym_size.int,)


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """Mean and deviation of an input, one value or one a channel, and what they were taken from."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    source: str


def input_statistics(network: Network) -> dict[str, InputStatistics]:
    """By name the statistics of float inputs (n, channels, …) that a batch norm or constants near them tell.

    Networks whose batch norms were folded before, as by torch's ONNX export, tell nothing.
    """
    placeholders = network.graph.graph.find_nodes(op="placeholder")
    found = {}
    with torch.no_grad():
        for tensor, node in zip(network.inputs, placeholders, strict=True):
            if tensor.dtype.startswith(("float", "bfloat")) and len(tensor.shape) > 1 and tensor.batch_axis == 0:
                told = _find(network.graph, node, tensor.shape[1])
                if told is not None:
                    found[tensor.name] = told
    return found


def _find(graph: fx.GraphModule, node: fx.Node, channels: int | str) -> InputStatistics | None:
    """The statistics of what reaches the first layer, brought back through the constants before it."""
    factor, shift, last = torch.ones(1), torch.zeros(1), node
    for user, scale, offset in _affine_steps(graph, node):
        factor, shift, last = factor * scale, shift * scale + offset, user
    told = _of_layer(graph, last)
    if told is None:
        if last is node:
            return None
        told = torch.zeros(1), torch.ones(1), "the constants that it is normalised by"
    mean, deviation = (told[0] - shift) / factor, told[1] / factor.abs()
    usable = bool(torch.isfinite(mean).all() and torch.isfinite(deviation).all() and (deviation > 0).all())
    if not usable or any(len(values) not in (1, channels) for values in (mean, deviation)):
        return None
    return InputStatistics(tuple(mean.tolist()), tuple(deviation.tolist()), told[2])


def _affine_steps(graph: fx.GraphModule, node: fx.Node) -> Iterator[tuple[fx.Node, Tensor, Tensor]]:
    """The nodes after `node` that make scale · x + offset of it, with both as one value or one a channel."""
    constants = {**dict(graph.named_buffers()), **dict(graph.named_parameters())}
    while (user := _only_user(node)) is not None and (kind := _AFFINE.get(user.target)) is not None:
        if len(user.args) != 2 or user.kwargs:
            return
        first = user.args[0] is node
        value = _constant(constants, user.args[1] if first else user.args[0])
        if value is None or (kind == "div" and not first):
            return
        one, zero = torch.ones(1), torch.zeros(1)
        if kind in ("mul", "div"):
            yield user, value if kind == "mul" else 1 / value, zero
        else:
            swapped = kind == "sub" and not first
            yield user, -one if swapped else one, -value if kind == "sub" and first else value
        node = user


def _constant(constants: dict[str, Tensor], argument: object) -> Tensor | None:
    """A number, or a stored tensor with one value or one a channel, as (1,) or (channels,)."""
    if isinstance(argument, int | float):
        return torch.tensor([float(argument)])
    stored = (
        constants.get(str(argument.target)) if isinstance(argument, fx.Node) and argument.op == "get_attr" else None
    )
    if stored is None or not stored.is_floating_point():
        return None
    if stored.numel() == 1:
        return stored.reshape(1)
    # Broadcast against (n, channels, height, width): all but one size from the end must be 1.
    return stored.flatten() if stored.dim() >= 3 and stored.numel() == stored.shape[-3] else None


def _of_layer(graph: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor, str] | None:
    layer, after = _module_after(graph, node)
    if isinstance(layer, _Norm):
        norm = _trained(layer)
        return None if norm is None else (norm[0], norm[1].sqrt(), "the batch norm that it goes into")
    if not isinstance(layer, _Convolution) or after is None:
        return None
    norm = _trained(_module_after(graph, after)[0])
    return None if norm is None else _before_convolution(layer, *norm)


def _before_convolution(layer: _Convolution, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, str] | None:
    """The input of a convolution whose outputs have these means and variances.

    Means are exact but for the padding: E[y] = Σ W · E[x] + b, solved by least squares over the output channels. The
    deviation is that of noise without correlation, Var[y] = Σ W² · Var[x], in the geometric mean over the channels.
    """
    if layer.groups != 1 or layer.out_channels < 2 * layer.in_channels:
        return None
    weight = layer.weight.flatten(2).double()
    bias = 0 if layer.bias is None else layer.bias
    power = weight.square().sum((1, 2))
    kept = (variance > 0) & (power > 0)
    if not kept.any():
        return None
    found = torch.linalg.lstsq(weight.sum(2), (mean - bias).double()[:, None], driver="gelsd").solution[:, 0]
    deviation = (variance.double()[kept] / power[kept]).log().mean().div(2).exp()
    return found.float(), deviation.float().reshape(1), "the first batch norm"


def _trained(layer: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    """Running mean and variance, unless they are those of a norm that has seen nothing."""
    if not isinstance(layer, _Norm) or layer.running_mean is None or layer.running_var is None:
        return None
    mean, variance = layer.running_mean, layer.running_var
    fresh = bool((mean == 0).all() and (variance == 1).all())
    return None if fresh else (mean, variance)


def _module_after(graph: fx.GraphModule, node: fx.Node) -> tuple[nn.Module | None, fx.Node | None]:
    user = _only_user(node)
    if user is None or user.op != "call_module":
        return None, None
    return graph.get_submodule(str(user.target)), user


def _only_user(node: fx.Node) -> fx.Node | None:
    users = [user for user in node.users if user.target not in _ASIDE]
    return users[0] if len(users) == 1 else None
