"""Which ATen call becomes which `nn` layer; the layers are made without weights, which `lift` then hangs in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import fx, nn

from core.errors import ModelpressError

Arguments = dict[str, object]
Tensors = dict[str, torch.Tensor | None]


@dataclass(frozen=True)
class Rule:
    """How one operator becomes a layer: its arguments that are weights, and the layer that the others describe."""

    build: Callable[[fx.Node, Arguments, Tensors], nn.Module | None]
    weights: tuple[str, ...] = ("weight", "bias")
    input: str = "input"


def _build_conv(node: fx.Node, arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    weight = cast("torch.Tensor", tensors["weight"])
    if arguments.get("transposed"):
        return _build_conv_transpose(node, arguments, tensors)
    kind = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}.get(weight.dim())
    if kind is None:
        return None
    groups = cast("int", arguments["groups"])
    taps = weight.dim() - 2
    padding = arguments["padding"]
    return kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]  # as many numbers as the kind has taps
        stride=_spread(arguments["stride"], taps),  # type: ignore[arg-type]
        padding=padding if isinstance(padding, str) else _spread(padding, taps),  # type: ignore[arg-type]
        dilation=_spread(arguments["dilation"], taps),  # type: ignore[arg-type]
        groups=groups,
        bias=tensors["bias"] is not None,
        device="meta",
    )


def _build_conv_transpose(_node: fx.Node, arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    """The weight is (in, out / groups, taps …)."""
    weight = cast("torch.Tensor", tensors["weight"])
    kind = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}.get(weight.dim())
    if kind is None:
        return None
    groups = cast("int", arguments["groups"])
    taps = weight.dim() - 2
    return kind(
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),  # type: ignore[arg-type]  # as many numbers as the kind has taps
        stride=_spread(arguments["stride"], taps),  # type: ignore[arg-type]
        padding=_spread(arguments["padding"], taps),  # type: ignore[arg-type]
        output_padding=_spread(arguments["output_padding"], taps),  # type: ignore[arg-type]
        dilation=_spread(arguments["dilation"], taps),  # type: ignore[arg-type]
        groups=groups,
        bias=tensors["bias"] is not None,
        device="meta",
    )


def _build_linear(_node: fx.Node, _arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    weight = cast("torch.Tensor", tensors["weight"])
    if weight.dim() != 2:
        return None
    return nn.Linear(weight.shape[1], weight.shape[0], bias=tensors["bias"] is not None, device="meta")


def _build_batch_norm(node: fx.Node, arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    mean = tensors["running_mean"]
    if arguments["training"]:
        raise ModelpressError(
            "unsupported_graph",
            f"Node {node.name} is a batch norm in training mode.",
            hint="Call `model.eval()` before exporting.",
            node=node.name,
        )
    source = cast("fx.Node", arguments["input"])
    dimensions = cast("torch.Tensor", source.meta["value"]).dim()
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(dimensions)
    if mean is None or kind is None:
        return None
    layer = kind(
        mean.shape[0],
        eps=cast("float", arguments["eps"]),
        momentum=cast("float", arguments["momentum"]),
        affine=tensors["weight"] is not None,
        device="meta",
    )
    return _counted(layer)


def _counted(layer: nn.Module) -> nn.Module:
    """The layer with the counter that PyTorch keeps beside running statistics."""
    layer.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))
    return layer


def _build_layer_norm(_node: fx.Node, arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    if tensors["weight"] is None:
        return None
    shape = [int(size) for size in cast("list[int]", arguments["normalized_shape"])]
    return nn.LayerNorm(shape, eps=cast("float", arguments["eps"]), bias=tensors["bias"] is not None, device="meta")


def _build_rms_norm(_node: fx.Node, arguments: Arguments, _tensors: Tensors) -> nn.Module | None:
    shape = [int(size) for size in cast("list[int]", arguments["normalized_shape"])]
    return nn.RMSNorm(shape, eps=cast("float | None", arguments["eps"]), device="meta")


def _build_group_norm(_node: fx.Node, arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    weight = tensors["weight"]
    if weight is None or tensors["bias"] is None:
        return None
    groups, eps = cast("int", arguments["num_groups"]), cast("float", arguments["eps"])
    return nn.GroupNorm(groups, weight.shape[0], eps=eps, device="meta")


def _build_instance_norm(_node: fx.Node, arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    source = cast("fx.Node", arguments["input"])
    dimensions = cast("torch.Tensor", source.meta["value"]).dim()
    kind = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}.get(dimensions)
    weight, mean = tensors["weight"], tensors["running_mean"]
    known = weight if weight is not None else mean
    # A layer in eval mode uses the statistics that it tracks, so the call must as well.
    if kind is None or known is None or (mean is None) is not bool(arguments["use_input_stats"]):
        return None
    layer = kind(
        known.shape[0],
        eps=cast("float", arguments["eps"]),
        momentum=cast("float", arguments["momentum"]),
        affine=weight is not None,
        track_running_stats=mean is not None,
        device="meta",
    )
    return _counted(layer) if mean is not None else layer


def _build_embedding(_node: fx.Node, _arguments: Arguments, tensors: Tensors) -> nn.Module | None:
    weight = cast("torch.Tensor", tensors["weight"])
    # A table of integers stays a plain call: `nn.Embedding` trains, and integers cannot.
    if not weight.is_floating_point():
        return None
    return nn.Embedding(weight.shape[0], weight.shape[1], device="meta")


def _spread(value: object, taps: int) -> tuple[int, ...]:
    numbers = tuple(cast("list[int]", value))
    return numbers * taps if len(numbers) == 1 else numbers


aten = torch.ops.aten
_CONV = Rule(_build_conv)
_CONV_TRANSPOSE = Rule(_build_conv_transpose)
_STATISTICS = ("weight", "bias", "running_mean", "running_var")

RULES: Mapping[torch._ops.OpOverload, Rule] = {
    aten.conv1d.default: _CONV,
    aten.conv1d.padding: _CONV,
    aten.conv2d.default: _CONV,
    aten.conv2d.padding: _CONV,
    aten.conv3d.default: _CONV,
    aten.conv3d.padding: _CONV,
    aten.convolution.default: _CONV,
    aten.conv_transpose1d.default: _CONV_TRANSPOSE,
    aten.conv_transpose2d.input: _CONV_TRANSPOSE,
    aten.conv_transpose3d.input: _CONV_TRANSPOSE,
    aten.linear.default: Rule(_build_linear),
    aten.batch_norm.default: Rule(_build_batch_norm, _STATISTICS),
    aten.layer_norm.default: Rule(_build_layer_norm),
    aten.rms_norm.default: Rule(_build_rms_norm, ("weight",)),
    aten.group_norm.default: Rule(_build_group_norm),
    aten.instance_norm.default: Rule(_build_instance_norm, _STATISTICS),
    aten.embedding.default: Rule(_build_embedding, ("weight",), "indices"),
}
