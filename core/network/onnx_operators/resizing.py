"""ONNX operators that resample images."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator, static

Matrix = NDArray[np.float64]
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def resize(
    call: Call,
    x: Tensor,
    roi: list[float] | None = None,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
) -> Tensor:
    """Resize; what `F.interpolate` also knows becomes a call of it, the rest a matrix for each axis."""
    if call.opset < 11:
        return upsample(call, x, roi)
    axes = [axis % x.dim() for axis in call.integers("axes") or range(x.dim())]
    if sizes and call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        ratios = [size / x.shape[axis] for size, axis in zip(sizes, axes, strict=True)]
        smaller = call.text("keep_aspect_ratio_policy", "") == "not_larger"
        ratio = min(ratios) if smaller else max(ratios)
        scales, sizes = [ratio] * len(axes), [math.floor(x.shape[axis] * ratio + 0.5) for axis in axes]
    simple = _interpolated(call, x, axes, scales, sizes)
    if simple is not None:
        return simple
    windows = roi or [0.0] * len(axes) + [1.0] * len(axes)
    for index, axis in enumerate(axes):
        size = int(x.shape[axis])
        out = int(sizes[index]) if sizes else math.floor(size * (scales or [1.0])[index])
        scale = scales[index] if scales else out / size
        window = (windows[index], windows[index + len(axes)])
        cropped = call.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        if (out, scale) != (size, 1.0) or cropped:
            matrix, outside = _sampling(call, size, out, scale, window)
            x = (x.movedim(axis, -1) @ torch.tensor(matrix.T, dtype=x.dtype)).movedim(-1, axis)
            if outside.any():
                shape = [-1 if place == axis else 1 for place in range(x.dim())]
                filler = torch.full_like(x, call.number("extrapolation_value", 0.0))
                x = torch.where(torch.tensor(outside).reshape(shape), filler, x)
    return x


def upsample(call: Call, x: Tensor, scales: list[float] | None = None) -> Tensor:
    """Upsample, and Resize as it was in opset 10: corners first, rounded down."""
    value = call.attributes.get("scales")
    given = [float(factor) for factor in value] if isinstance(value, list) else [1.0] * x.dim()
    factors = scales or given
    if call.text("mode", "nearest") == "nearest":
        return F.interpolate(x, scale_factor=factors[2:], mode="nearest")
    for axis, factor in enumerate(factors):
        if factor != 1.0:
            size = int(x.shape[axis])
            out = math.floor(size * factor)
            matrix = np.stack([_linear(place, size) for place in np.minimum(np.arange(out) / factor, size - 1)])
            x = (x.movedim(axis, -1) @ torch.tensor(matrix.T, dtype=x.dtype)).movedim(-1, axis)
    return x


def _interpolated(
    call: Call, x: Tensor, axes: Sequence[int], scales: list[float] | None, sizes: list[int] | None
) -> Tensor | None:
    """The same by `F.interpolate`, which follows free sizes; None where it has no such rule."""
    kept = [index for index, axis in enumerate(axes) if axis < 2]
    unchanged = all((scales[i] == 1.0) if scales else (sizes or [])[i] == x.shape[axes[i]] for i in kept)
    if not unchanged or list(axes[len(kept) :]) != list(range(2, x.dim())) or call.integer("antialias", 0):
        return None
    rule = _torch_rule(call, x, scales)
    if rule is None:
        return None
    mode, corners = rule
    if scales:
        return F.interpolate(x, scale_factor=scales[len(kept) :], mode=mode, align_corners=corners)
    return F.interpolate(x, size=(sizes or [])[len(kept) :], mode=mode, align_corners=corners)


def _torch_rule(call: Call, x: Tensor, scales: list[float] | None) -> tuple[str, bool | None] | None:
    """Mode and `align_corners` of `F.interpolate`, None where it does not know the rule."""
    mode = call.text("mode", "nearest")
    places = call.text("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        rounding = call.text("nearest_mode", "round_prefer_floor")
        whole = scales is not None and all(float(scale).is_integer() for scale in scales)
        exact = whole and places == "half_pixel" and rounding in ("round_prefer_floor", "round_prefer_ceil")
        return ("nearest", None) if exact or (places, rounding) == ("asymmetric", "floor") else None
    usual = mode == "linear" or (mode == "cubic" and x.dim() == 4 and call.number("cubic_coeff_a", -0.75) == -0.75)
    if not usual or call.integer("exclude_outside", 0) or x.dim() not in _LINEAR:
        return None
    if places == "align_corners" or (places == "half_pixel" and not (mode == "cubic" and scales)):
        return _torch_mode(mode, x), places == "align_corners"
    return None


def _torch_mode(mode: str, x: Tensor) -> str:
    return "bicubic" if mode == "cubic" else _LINEAR[x.dim()]


def _sampling(
    call: Call, size: int, out: int, scale: float, window: tuple[float, float]
) -> tuple[Matrix, NDArray[np.bool_]]:
    """The (out, size) matrix that resamples one axis, and which outputs lie outside of the input."""
    mode = call.text("coordinate_transformation_mode", "half_pixel")
    places = _places(mode, size, out, scale, window)
    kernel = _kernel(call)
    stretch = 1 / scale if call.integer("antialias", 0) and scale < 1 else 1.0
    if call.text("mode", "nearest") == "nearest":
        matrix = np.zeros((out, size))
        matrix[np.arange(out), np.clip(_rounded(call, places), 0, size - 1)] = 1
    else:
        matrix = np.stack(
            [_row(place, size, kernel, stretch, bool(call.integer("exclude_outside", 0))) for place in places]
        )
    outside = ((places < 0) | (places > size - 1)) & (mode == "tf_crop_and_resize")
    return matrix, outside


def _places(mode: str, size: int, out: int, scale: float, window: tuple[float, float]) -> Matrix:
    """Where in the input each output lies, by the formulas of the standard."""
    steps = np.arange(out, dtype=np.float64)
    # The length before it was rounded down to whole pixels.
    exact = scale * size
    centred: Matrix = (steps + 0.5) / scale - 0.5
    start, end = window
    corners = steps * (size - 1) / (exact - 1) if exact != 1 else steps * 0
    inside = start + steps * (end - start) / (out - 1) if out > 1 else np.array([(start + end) / 2])
    rules = {
        "asymmetric": steps / scale,
        "align_corners": corners,
        "pytorch_half_pixel": centred if exact > 1 else steps * 0,
        "half_pixel_symmetric": size / 2 * (1 - out / exact) + centred,
        "tf_crop_and_resize": inside * (size - 1),
    }
    return rules.get(mode, centred)


def _rounded(call: Call, places: Matrix) -> NDArray[np.int64]:
    rules: Mapping[str, Callable[[Matrix], NDArray[np.floating]]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    }
    return rules[call.text("nearest_mode", "round_prefer_floor")](places).astype(np.int64)


def _kernel(call: Call) -> Callable[[Matrix], Matrix]:
    if call.text("mode", "nearest") == "linear":
        return lambda t: np.maximum(1 - np.abs(t), 0)
    a = call.number("cubic_coeff_a", -0.75)

    def cubic(t: Matrix) -> Matrix:
        x = np.abs(t)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return cubic


def _row(place: float, size: int, kernel: Callable[[Matrix], Matrix], stretch: float, exclude: bool) -> Matrix:
    """Weights of the inputs around `place`; beyond the border stands the border's value, or nothing."""
    reach = math.ceil(2 * stretch) + 1
    taps = np.arange(math.floor(place) - reach, math.floor(place) + reach + 1)
    weights = kernel(np.asarray((taps - place) / stretch, np.float64))
    if exclude:
        weights = np.where((taps < 0) | (taps >= size), 0.0, weights)
    row = np.zeros(size)
    np.add.at(row, np.clip(taps, 0, size - 1), weights / weights.sum())
    return row


def _linear(place: float, size: int) -> Matrix:
    return _row(place, size, lambda t: np.maximum(1 - np.abs(t), 0), 1.0, False)


def sample_grid(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """GridSample."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.text("mode", "linear"), call.text("mode", "linear"))
    corners = bool(call.integer("align_corners", 0))
    return F.grid_sample(x, grid, mode, call.text("padding_mode", "zeros"), corners)


def make_grid(call: Call, theta: Tensor, sizes: list[int]) -> Tensor:
    """AffineGrid."""
    return F.affine_grid(theta, sizes, bool(call.integer("align_corners", 0)))


def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """DepthToSpace: channels become blocks of pixels, in either order."""
    block = call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "DCR":
        batch, channels, height, width = x.shape
        x = x.reshape(batch, block * block, channels // (block * block), height, width).transpose(1, 2)
        x = x.reshape(batch, channels, height, width)
    return F.pixel_shuffle(x, block)


def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """SpaceToDepth: the place in a block is the slower part of the channel, or the faster one (CRD)."""
    block = call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, block)
    batch, channels, height, width = x.shape
    x = F.pixel_unshuffle(x, block).reshape(batch, channels, block * block, height // block, width // block)
    return x.transpose(1, 2).reshape(batch, channels * block * block, height // block, width // block)


def fold_columns(call: Call, x: Tensor, image: list[int], block: list[int]) -> Tensor:
    """Col2Im of two dimensions with equal pads."""
    pads = call.integers("pads") or [0] * 4
    if len(block) != 2 or pads[:2] != pads[2:]:
        call.refuse("only two dimensions with equal pads are read")
    dilations, strides = call.integers("dilations") or [1, 1], call.integers("strides") or [1, 1]
    return F.fold(x, tuple(image), tuple(block), tuple(dilations), tuple(pads[:2]), tuple(strides))


RESIZING: Mapping[str, Operator] = {
    "AffineGrid": static(make_grid, 1),
    "Col2Im": static(fold_columns, 1, 2),
    "DepthToSpace": Operator(depth_to_space),
    "GridSample": Operator(sample_grid),
    "Resize": static(resize, 1, 2, 3),
    "SpaceToDepth": Operator(space_to_depth),
    "Upsample": static(upsample, 1),
}
