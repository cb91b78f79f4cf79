"""Calls that give the same numbers another shape, or repeat them; the sizes in them are rewritten."""

from collections.abc import Sequence

import torch
from torch import fx

from core.errors import ModelpressError
from core.network.surgery.call import Call, Site, Size, Value
from core.network.surgery.dimensions import Axis, Dimension, Dims, Misfit, Mul, factor, fixed, resolve, size, unify

aten = torch.ops.aten


def keep_shape(call: Call) -> Value:
    """The dimensions of the main argument."""
    return list(call.source())


def reshape(call: Call) -> Value:
    """`view`, `reshape` and `flatten`."""
    out = _reshaped(call)
    call.edit_sizes("shape" if call.has("shape") else "size", out)
    return out


def reshape_like(call: Call) -> Value:
    """`view_as` and `reshape_as`."""
    out = _reshaped(call)
    for e, like in zip(out, call.dims("other"), strict=True):
        if size(e) != 1:
            unify(e, like)
    return out


def unflatten(call: Call) -> Value:
    """One dimension as several."""
    place, sizes = call.axis("dim", len(call.source())), call.get("sizes")
    if not isinstance(sizes, Sequence):
        raise Misfit
    out = _reshaped(call)
    call.edit_sizes("sizes", out[place : place + len(sizes)])
    return out


def _reshaped(call: Call) -> Dims:
    rest: Dimension = Mul(call.source())
    out: Dims = []
    for n in call.shape:
        e, rest = factor(rest, n) if n != 1 else (fixed(1), rest)
        out.append(e)
    return out


def permute(call: Call) -> Value:
    """Dimensions in another order."""
    x = call.source()
    return [x[place] for place in call.axes("dims", len(x))]


def transpose(call: Call) -> Value:
    """Two dimensions change places; without names the only two."""
    x = list(call.source())
    names = next((pair for pair in (("dim0", "dim1"), ("axis0", "axis1")) if call.has(pair[0])), None)
    if names is None:
        return x[::-1]
    first, second = (call.axis(name, len(x)) for name in names)
    x[first], x[second] = x[second], x[first]
    return x


def move(call: Call) -> Value:
    """One dimension goes to another place."""
    x = list(call.source())
    e = x.pop(call.axis("source", len(x)))
    x.insert(call.axis("destination", len(x) + 1), e)
    return x


def squeeze(call: Call) -> Value:
    """Dimensions of size 1 go; one that was larger must not get size 1, since it would go too."""
    x = call.source()
    asked = set(call.axes("dim", len(x)))
    larger = [e for place, e in enumerate(x) if place in asked and size(e) != 1]

    def change(site: Site, size_: Size) -> None:
        if any(size_(e) == 1 for e in larger):
            raise ModelpressError(
                "unsupported_graph",
                f"Node {site.node.name} would drop a dimension that is cut to one position.",
                hint="Keep at least two positions.",
                node=site.node.name,
            )

    call.edit(larger, change)
    return [e for place, e in enumerate(x) if place not in asked or size(e) != 1]


def unsqueeze(call: Call) -> Value:
    """A new dimension of size 1."""
    x = list(call.source())
    x.insert(call.axis("dim", len(x) + 1), fixed(1))
    return x


def expand(call: Call) -> Value:
    """Copies along dimensions of size 1 and new ones: any of the copies may go, where their number is written."""
    x, sizes = call.source(), call.get("size")
    if not isinstance(sizes, (list, tuple)):
        raise Misfit
    new = len(call.shape) - len(x)
    out: Dims = []
    for place, n in enumerate(call.shape):
        if place >= new and size(x[place - new]) == n:
            out.append(x[place - new])
        else:
            out.append(fixed(n, "a computed size") if isinstance(sizes[place], fx.Node) else Axis(n))
    call.edit_sizes("size", out)
    return out


def repeat(call: Call) -> Value:
    """`repeat` and `tile`: the whole several times, one behind the other."""
    name = "repeats" if call.has("repeats") else "dims"
    x, counts = call.source(), call.get(name)
    if not isinstance(counts, (list, tuple)) or len(counts) != len(call.shape):
        raise Misfit
    x = [fixed(1)] * (len(call.shape) - len(x)) + x
    copies: Dims = [
        fixed(n // size(e), "a computed size") if isinstance(count, fx.Node) else Axis(n // size(e))
        for n, e, count in zip(call.shape, x, counts, strict=True)
    ]
    call.edit_sizes(name, copies)
    return [resolve(Mul((a, e))) for a, e in zip(copies, x, strict=True)]


def fill(call: Call) -> Value:
    """`zeros`, `full` and their like: every position is like the others."""
    sizes = call.get("size")
    if not isinstance(sizes, (list, tuple)):
        raise Misfit
    out: Dims = [
        fixed(n, "a computed size") if isinstance(given, fx.Node) else Axis(n)
        for n, given in zip(call.shape, sizes, strict=True)
    ]
    call.edit_sizes("size", out)
    return out
