"""Which axis of each input counts samples: what a file's names of free sizes say, and what its sizes allow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from core.description import BATCH

# Axes of each input; None where an input has no samples along it, and is the same for all.
Axes = tuple[int | None, ...]
# A size that is free has a name, or none where the file gives it none.
Shape = Sequence[int | str | None]
# Recurrent states, (layers, batch, features), have their batch second; a matrix does not count samples there.
_LEAST_RANK = 3
_MOST_GUESSES = 8


@dataclass(frozen=True)
class Reading:
    """One way to read the inputs as batches; `named` where the file calls that size free, `whole` where all have it."""

    axes: Axes
    named: bool
    whole: bool


def named_readings(shapes: Sequence[Shape]) -> Iterator[Reading]:
    """What free sizes may mean, the likeliest first: one called batch, the first free one, another that is shared."""
    counts = {name: sum(name in shape for shape in shapes) for name in _names(shapes)}
    ranked = [shape for shape in shapes if shape]
    shared = [name for name, count in counts.items() if count == len(ranked)]
    # A name that all share and one has first, as the lengths of sequences do, says more than sizes of other names.
    called = [name for name in shared if BATCH in name.lower() or any(name in shape[:1] for shape in ranked)]
    called.sort(key=lambda name: (name != BATCH, BATCH not in name.lower()))
    placed = tuple(
        next((axis for axis in _places(shape) if not isinstance(shape[axis], int)), None) for shape in shapes
    )
    fitting = bool(ranked) and all(axis is not None for shape, axis in zip(shapes, placed, strict=True) if shape)
    seen: set[Axes] = set()
    for axes in (
        *(_axes_of(name, shapes) for name in called),
        *([placed] if fitting else []),
        *(_axes_of(name, shapes) for name in shared),
    ):
        if axes not in seen:
            seen.add(axes)
            yield Reading(axes, named=True, whole=True)
    for name in sorted(counts, key=lambda name: (-counts[name], BATCH not in name.lower())):
        if name not in shared:
            yield Reading(_axes_of(name, shapes), named=True, whole=False)


def batch_axes(shapes: Sequence[Shape]) -> Axes:
    """The likeliest reading of free sizes as a batch of every input; no axes where there is none."""
    first = next(named_readings(shapes), None)
    return first.axes if first is not None and first.whole else (None,) * len(shapes)


def baked_readings(sizes: Sequence[Sequence[int]]) -> Iterator[Reading]:
    """What numbers may mean: the first size of all, or one size that some inputs have first and states second."""
    ranked = [shape for shape in sizes if shape]
    firsts = {shape[0] for shape in ranked}
    if len(firsts) == 1:
        yield Reading(tuple(0 if shape else None for shape in sizes), named=False, whole=True)
    # What a single input means by its second size, no other input tells.
    if len(ranked) < 2:
        return
    for size in dict.fromkeys(ranked[0][axis] for axis in _places(ranked[0])):
        options = [[axis for axis in _places(shape) if shape[axis] == size] if shape else [None] for shape in sizes]
        for axes in islice(product(*options), _MOST_GUESSES):
            if any(axes):
                yield Reading(axes, named=False, whole=True)


def batch_size(sizes: Sequence[Sequence[int]], axes: Axes) -> int | None:
    """How many samples the sizes hold along these axes; None where they do not agree, or there is no axis."""
    found = {shape[axis] for shape, axis in zip(sizes, axes, strict=True) if axis is not None}
    return found.pop() if len(found) == 1 else None


def _places(shape: Shape) -> tuple[int, ...]:
    """The axes that may count samples though no name says so."""
    return (0, 1) if len(shape) >= _LEAST_RANK else (0,) if shape else ()


def _names(shapes: Sequence[Shape]) -> dict[str, None]:
    return dict.fromkeys(size for shape in shapes for size in shape if isinstance(size, str) and size)


def _axes_of(name: str, shapes: Sequence[Shape]) -> Axes:
    return tuple(list(shape).index(name) if name in shape else None for shape in shapes)
