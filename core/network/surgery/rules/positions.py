"""Calls along a dimension: those in which positions have a meaning, those that average over them, pooling."""

from collections.abc import Callable

from core.network.surgery.call import Call, Value, fresh
from core.network.surgery.dimensions import Dims, fixed
from core.network.surgery.rules.products import combine_pointwise

_RANKS = {"1d": 1, "2d": 2, "3d": 3}


def keep_positions(why: str, name: str = "dim") -> Callable[[Call], Value]:
    """A rule that leaves all dimensions as they are but keeps every position along `name`."""

    def rule(call: Call) -> Value:
        x = list(call.source())
        call.freeze([x[place] for place in call.axes(name, len(x))], why)
        return tuple(list(x) for _ in call.shapes) if call.makes_several else x

    return rule


def keep_triangle(call: Call) -> Value:
    """`tril` and `triu` compare the positions of the last two dimensions."""
    x = list(call.source())
    call.freeze(x[-2:], "order matters")
    return x


def keep_some(call: Call) -> Value:
    """`topk`: as many as were asked for, of one dimension."""
    x = list(call.source())
    place = call.axis("dim", len(x))
    call.freeze([x[place]], "order matters")
    x[place] = fixed(call.shapes[0][place])
    return tuple(list(x) for _ in call.shapes)


def reduce(call: Call) -> Value:
    """Sums, means and norms over dimensions."""
    x = call.source()
    places = call.axes("dim", len(x))
    call.ledger.averaged += [x[place] for place in places]
    return _without(call, x, places)


def reduce_positions(call: Call) -> Value:
    """Largest and smallest values, of which the position may be asked too; of two tensors those of each place."""
    if call.has("other"):
        return combine_pointwise(call)
    x = call.source()
    places = call.axes("dim", len(x))
    call.freeze([x[place] for place in places], "order matters")
    return _without(call, x, places)


def _without(call: Call, x: Dims, places: list[int]) -> Value:
    keeps = bool(call.get("keepdim"))
    out: Dims = [fixed(1) if place in places else e for place, e in enumerate(x) if place not in places or keeps]
    return tuple(list(out) for _ in call.shapes) if call.makes_several else out


def pool(call: Call) -> Value:
    """Pooling and resizing: channels pass, positions in space are fixed."""
    x = call.source()
    space = next((rank for mark, rank in _RANKS.items() if mark in call.name), len(x) - 2)
    call.freeze(x[len(x) - space :], "a position in space")
    channels = x[: len(x) - space]
    if call.makes_several:
        return tuple(channels + fresh(shape[len(x) - space :]) for shape in call.shapes)
    return channels + fresh(call.shape[len(x) - space :])


def slide(call: Call) -> Value:
    """`unfold`: windows along one dimension, each as a new last one."""
    x = list(call.source())
    place = call.axis("dimension", len(x))
    call.freeze([x[place]], "order matters")
    x[place] = fixed(call.shape[place])
    return [*x, fixed(call.shape[-1])]


def sample_grid(call: Call) -> Value:
    """`grid_sampler`: (N, C, …) read at the places of a grid."""
    x, grid = call.source(), call.dims("grid")
    call.freeze([*x[2:], *grid], "a position in space")
    return x[:2] + fresh(call.shape[2:])


def make_anew(call: Call) -> Value:
    """Numbers that depend on no dimension that could be cut, such as `arange`."""
    return fresh(call.shape) if isinstance(call.raw_shape, list) else None
