"""Calls that put tensors together or take parts of them: concatenation, splits, slices, padding, shuffles."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import fx

from core.network.surgery.call import Call, Site, Size, Value, fresh
from core.network.surgery.dimensions import (
    Cat,
    Dimension,
    Dims,
    Misfit,
    Mul,
    cut,
    factor,
    fixed,
    is_frozen,
    resolve,
    size,
)
from core.network.surgery.rules.products import broadcast

aten = torch.ops.aten


def concatenate(call: Call) -> Value:
    """One tensor behind the other; those of torch's legacy shape (0,) do not count."""
    tensors = [dims for dims in call.several("tensors") if len(dims) > 1 or size(dims[0])]
    place = call.axis("dim", len(tensors[0]))
    out = list(tensors[0])
    for dims in tensors[1:]:
        for other, e in enumerate(dims):
            if other != place:
                call.tie(out[other], e)
    out[place] = resolve(Cat(dims[place] for dims in tensors))
    return out


def stack(call: Call) -> Value:
    """Tensors of one shape along a new dimension."""
    tensors = call.several("tensors")
    out = broadcast(call, tensors)
    out.insert(call.axis("dim", len(out) + 1), fixed(len(tensors)))
    return out


def split(call: Call) -> Value:
    """All ways to split; the parts get different sizes when they are cut, so the sizes are written down."""
    x = call.source()
    place = call.axis("dim", len(x))
    rest: Dimension | None = x[place]
    parts: Dims = []
    for shape in call.shapes:
        if rest is None or shape[place] in (0, size(rest)):
            part, rest = rest or fixed(0), None
        else:
            part, rest = cut(rest, shape[place])
        parts.append(part)

    def change(site: Site, size_: Size) -> None:
        site.node.target = aten.split_with_sizes.default
        site.node.args = (site.node.args[0], [size_(part) for part in parts], place)
        site.node.kwargs = {}

    call.edit([x[place]], change)
    return tuple([*x[:place], part, *x[place + 1 :]] for part in parts)


def gate(call: Call) -> Value:
    """`glu`: the first half times a sigmoid of the second."""
    x = call.source()
    place = call.axis("dim", len(x))
    first, second = cut(x[place], size(x[place]) // 2)
    call.tie(first, second)
    return [*x[:place], first, *x[place + 1 :]]


def take_slice(call: Call) -> Value:
    """`slice` and `narrow`: what is before, in and behind the slice are parts of the dimension."""
    x = list(call.source())
    place = call.axis("dim", len(x))
    whole, n, m = x[place], size(x[place]), call.shape[place]
    start, step = call.get("start") or 0, call.get("step") or 1
    if n == m and step == 1 and not call.has("length"):
        return x
    is_written = isinstance(start, int) and not isinstance(call.get("end"), fx.Node)
    if is_frozen(whole) or not is_written or m == 0:
        call.freeze([whole], "sliced at computed positions")
        x[place] = fixed(m)
        return x
    start = cast("int", start)
    start = max(start + n, 0) if start < 0 else start
    if step != 1:
        x[place] = _take_every(call, whole, (start, cast("int", step), m))
        return x
    before, rest = cut(whole, start) if start else (None, whole)
    middle, behind = cut(rest, m) if m != size(rest) else (rest, None)
    x[place] = middle
    _edit_slice(call, before, middle, behind)
    return x


def _take_every(call: Call, whole: Dimension, taken: tuple[int, int, int]) -> Dimension:
    """Every `step`-th position, which are rows of a product."""
    start, step, m = taken
    if size(whole) % step or start >= step or m != size(whole) // step:
        raise Misfit
    rows, within = factor(whole, m)
    call.freeze([within], "every n-th position is read")
    return rows


def _edit_slice(call: Call, before: Dimension | None, middle: Dimension, behind: Dimension | None) -> None:
    def change(site: Site, size_: Size) -> None:
        start = size_(before) if before is not None else 0
        if before is not None:
            site.set_argument("start", start)
        if call.has("length"):
            site.set_argument("length", size_(middle))
        elif behind is not None:
            site.set_argument("end", start + size_(middle))

    call.edit([e for e in (before, middle, behind) if e is not None], change)


def take_position(call: Call) -> Value:
    """`select`: one position by its number."""
    x = call.source()
    place = call.axis("dim", len(x))
    call.freeze([x[place]], "read by position")
    return x[:place] + x[place + 1 :]


def unbind(call: Call) -> Value:
    """Every position by itself."""
    x = call.source()
    place = call.axis("dim", len(x))
    call.freeze([x[place]], "read by position")
    return tuple(x[:place] + x[place + 1 :] for _ in call.shapes)


def look_up(call: Call) -> Value:
    """`index` by tensors of positions: what they index stays."""
    x, indices = call.source(), cast("Sequence[object]", call.get("indices"))
    used = [place for place, index in enumerate(indices) if index is not None]
    call.freeze([x[place] for place in used], "read by computed positions")
    for dims in call.several("indices"):
        call.freeze(dims, "positions that are read")
    count = len(call.shape) - (len(x) - len(used))
    is_together = used == list(range(used[0], used[-1] + 1))
    at = used[0] if is_together else 0
    rest = [e for place, e in enumerate(x) if place not in used]
    return rest[:at] + fresh(call.shape[at : at + count]) + rest[at:]


def look_up_one(call: Call) -> Value:
    """`index_select`."""
    x = list(call.source())
    place = call.axis("dim", len(x))
    call.freeze([x[place], *call.dims("index")], "read by computed positions")
    x[place] = fixed(call.shape[place])
    return x


def pad(call: Call) -> Value:
    """Zeros before and behind a dimension are parts of it, such as the zero channels of a shortcut without weights."""
    x, amounts = list(call.source()), call.get("pad")
    if not isinstance(amounts, (list, tuple)) or not all(isinstance(amount, int) for amount in amounts):
        raise Misfit
    is_constant = call.get("mode") in (None, "constant")
    for index in range(len(amounts) // 2):
        place = len(x) - 1 - index
        before, behind = amounts[2 * index : 2 * index + 2]
        if is_frozen(x[place]) or not is_constant or min(before, behind) < 0:
            call.freeze([x[place]], "padded")
            x[place] = fixed(call.shape[place])
        elif before or behind:
            ends = [[fixed(amount, "padding")] if amount else [] for amount in (before, behind)]
            x[place] = resolve(Cat([*ends[0], x[place], *ends[1]]))
    return x


def shuffle_channels(call: Call) -> Value:
    """Channels as groups × channels of a group, read the other way round."""
    x = list(call.source())
    groups, inner = factor(x[1], call.integer("groups"))
    x[1] = resolve(Mul((inner, groups)))
    call.edit([groups], lambda site, size_: site.set_argument("groups", size_(groups)))
    return x


def shuffle_pixels(call: Call) -> Value:
    """(C·r², H, W) → (C, H·r, W·r)."""
    x, r = call.source(), call.integer("upscale_factor")
    channels, within = factor(x[-3], size(x[-3]) // r**2)
    call.freeze([within], "sub-pixels of one block")
    call.freeze(x[-2:], "a position in space")
    return [*x[:-3], channels, *fresh(call.shape[-2:])]


def unshuffle_pixels(call: Call) -> Value:
    """(C, H·r, W·r) → (C·r², H, W)."""
    x, r = call.source(), call.integer("downscale_factor")
    call.freeze(x[-2:], "a position in space")
    return [*x[:-3], resolve(Mul((x[-3], fixed(r * r)))), *fresh(call.shape[-2:])]


def unfold_windows(call: Call) -> Value:
    """`im2col`: (N, C, H, W) → (N, C·taps, windows)."""
    x = call.source()
    call.freeze(x[-2:], "a position in space")
    taps = call.shape[-2] // size(x[-3])
    return [*x[:-3], resolve(Mul((x[-3], fixed(taps)))), fixed(call.shape[-1])]


def fold_windows(call: Call) -> Value:
    """`col2im`: (N, C·taps, windows) → (N, C, H, W)."""
    x = call.source()
    channels, within = factor(x[-2], call.shape[-3])
    call.freeze([within, x[-1]], "a position in space")
    return [*x[:-2], channels, *fresh(call.shape[-2:])]
