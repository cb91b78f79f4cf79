"""Integers for the kernels of onnxruntime: what stands before a layer whose input is rounded too."""

import torch
from torch import Tensor, fx

from core.network.encodings import operators
from core.network.encodings.emission import Emission


def emit_integers(
    emission: Emission, integers: fx.Node, scale: Tensor, *, zero_point: Tensor | None, axis: int | None
) -> fx.Node:
    """DequantizeLinear of `integers`, which onnxruntime fuses with the layer.

    Scales (channels,) along `axis` of the weight as it lies in the network, or () with `axis` None. QGemm is fused only
    when the weight's zero point is written; of an int32 bias none may be.
    """
    if emission.transposed and axis is not None:
        axis = 1 - axis
    return emission.call(
        operators.DEQUANTIZE,
        integers,
        emission.buffer("scale", scale),
        None if zero_point is None else emission.buffer("zero", zero_point),
        axis or 0,
    )


def zero_points(scale: Tensor, zero_point: int, storage: torch.dtype) -> Tensor | None:
    """A zero point for each scale; None for 32-bit integers."""
    return None if storage is torch.int32 else torch.full_like(scale, zero_point, dtype=storage)
