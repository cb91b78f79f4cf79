"""What the dimensions of tensors are made of: expressions over axes, of which rules say that two have the same index.

An `Axis` is one free index; `Cat` puts the positions of its parts one behind the other (concatenation, the gates of an
LSTM); `Mul` is a row-major product (flattening, heads × head size, groups × channels). Unifying two dimensions merges
axes or refines them into the other's structure, as type inference does; what does not fit is frozen, with a reason.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, final

import torch
from torch import Tensor

SINGLE = "has one position"


class Misfit(Exception):  # noqa: N818  it never leaves the analysis
    """A rule cannot say in this algebra what a call does; what it touches is then frozen."""


@final
class Axis:
    """One index of `size` positions; `why` are reasons to keep all of them, `became` is what a rule refined it into."""

    __slots__ = ("became", "size", "why")

    def __init__(self, size: int, why: Iterable[str] = ()) -> None:
        self.size = size
        self.why = set(why)
        self.became: Dimension | None = None
        if size == 1:
            self.why.add(SINGLE)


@final
class Cat:
    """The positions of the first part, then those of the second, and so on."""

    __slots__ = ("parts",)

    def __init__(self, parts: "Iterable[Dimension]") -> None:
        self.parts = tuple(parts)


@final
class Mul:
    """A row-major product: the last part runs fastest."""

    __slots__ = ("parts",)

    def __init__(self, parts: "Iterable[Dimension]") -> None:
        self.parts = tuple(parts)


Dimension: TypeAlias = Axis | Cat | Mul
# A tensor's dimensions, in order.
Dims: TypeAlias = list[Dimension]


def fixed(size: int, why: str = "fixed size") -> Axis:
    """An axis of which every position stays."""
    return Axis(size, [why])


def resolve(e: Dimension) -> Dimension:
    """`e` with refined axes followed, nested parts of one kind flattened, factors of size 1 left out."""
    # A loop, since a stream with a thousand sums has a chain of as many axes.
    followed: list[Axis] = []
    while isinstance(e, Axis) and e.became is not None:
        followed.append(e)
        e = e.became
    found = e if isinstance(e, Axis) else _flatten(e)
    for axis in followed:
        axis.became = found
    return found


def _flatten(e: Cat | Mul) -> Dimension:
    kind = type(e)
    parts: Dims = []
    for part in map(resolve, e.parts):
        if not isinstance(part, Axis) and type(part) is kind:
            parts.extend(part.parts)
        elif not (kind is Mul and isinstance(part, Axis) and part.size == 1):
            parts.append(part)
    if len(parts) == 1:
        return parts[0]
    return kind(parts) if parts else fixed(1)


def size(e: Dimension, widths: Mapping[Axis, int] | None = None) -> int:
    """How many positions `e` has, or would have at other widths of its axes."""
    return settled_size(resolve(e), widths or {})


def settled_size(e: Dimension, widths: Mapping[Axis, int]) -> int:
    """As `size`, of what `resolve` gave, where nothing is refined any more."""
    if isinstance(e, Axis):
        return widths.get(e, e.size)
    sizes = [settled_size(part, widths) for part in e.parts]
    return sum(sizes) if isinstance(e, Cat) else math.prod(sizes)


def leaves(e: Dimension) -> list[Axis]:
    """The axes of `e` in order; one may occur several times."""
    e = resolve(e)
    return [e] if isinstance(e, Axis) else [axis for part in e.parts for axis in leaves(part)]


def is_frozen(e: Dimension) -> bool:
    """Whether every position of `e` stays."""
    return all(axis.why for axis in leaves(e))


def freeze(e: Dimension, *why: str) -> None:
    """Keep every position of `e`."""
    for axis in leaves(e):
        axis.why.update(why)


def reasons(e: Dimension) -> set[str]:
    """All reasons to keep positions of `e`."""
    return {why for axis in leaves(e) for why in axis.why}


def multiplied(e: Dimension) -> Iterator[tuple[Axis, Axis]]:
    """Pairs of axes of which a cut in both is a cut in `e` twice."""
    e = resolve(e)
    if isinstance(e, Axis):
        return
    for index, part in enumerate(e.parts):
        yield from multiplied(part)
        if isinstance(e, Mul):
            for other in e.parts[index + 1 :]:
                yield from ((a, b) for a in leaves(part) for b in leaves(other))


def factor(e: Dimension, m: int) -> tuple[Dimension, Dimension]:
    """`e` as a product of `m` rows; raises `Misfit` where its structure has no such rows."""
    e = resolve(e)
    n = size(e)
    if m == n:
        return e, fixed(1)
    if m == 1:
        return fixed(1), e
    if m == 0 or n % m:
        raise Misfit
    if isinstance(e, Axis):
        left, right = Axis(m, e.why), Axis(n // m, e.why)
        e.became = Mul((left, right))
        return left, right
    return _factor_product(e, m) if isinstance(e, Mul) else _factor_joined(e, n // m)


def _factor_product(e: Mul, m: int) -> tuple[Dimension, Dimension]:
    done, index = 1, 0
    while done * size(e.parts[index]) <= m:
        done *= size(e.parts[index])
        index += 1
    if m % done:
        raise Misfit
    left, right = factor(e.parts[index], m // done)
    return resolve(Mul((*e.parts[:index], left))), resolve(Mul((right, *e.parts[index + 1 :])))


def _factor_joined(e: Cat, length: int) -> tuple[Dimension, Dimension]:
    """Rows of `length` of joined parts; all rows must have the same index."""
    waiting, lefts, rights = list(e.parts), Dims(), Dims()
    while waiting:
        part = waiting.pop(0)
        if size(part) > length and size(part) % length:
            part, rest = cut(part, size(part) // length * length)
            waiting.insert(0, rest)
        if size(part) >= length:
            left, right = factor(part, size(part) // length)
        else:
            left, right = fixed(1), _fill_row(part, waiting, length)
        lefts.append(left)
        rights.append(right)
    for other in rights[1:]:
        unify(rights[0], other)
    return resolve(Cat(lefts)), resolve(rights[0])


def _fill_row(first: Dimension, waiting: Dims, length: int) -> Dimension:
    """Several short parts that make one row, taken off `waiting`."""
    row, done = [first], size(first)
    while done < length:
        part = waiting.pop(0)
        if done + size(part) > length:
            part, rest = cut(part, length - done)
            waiting.insert(0, rest)
        row.append(part)
        done += size(part)
    return Cat(row)


def cut(e: Dimension, k: int) -> tuple[Dimension, Dimension]:
    """`e` as its first `k` positions (0 < k < size) and the rest; raises `Misfit` inside a row of a product."""
    e = resolve(e)
    n = size(e)
    if isinstance(e, Axis):
        first, rest = Axis(k, e.why), Axis(n - k, e.why)
        e.became = Cat((first, rest))
        return first, rest
    if isinstance(e, Mul):
        length = n // size(e.parts[0])
        if k % length:
            raise Misfit
        head, tail = cut(e.parts[0], k // length)
        return resolve(Mul((head, *e.parts[1:]))), resolve(Mul((tail, *e.parts[1:])))
    done, index = 0, 0
    while done + size(e.parts[index]) <= k:
        done += size(e.parts[index])
        index += 1
    if done == k:
        return resolve(Cat(e.parts[:index])), resolve(Cat(e.parts[index:]))
    head, tail = cut(e.parts[index], k - done)
    return resolve(Cat((*e.parts[:index], head))), resolve(Cat((tail, *e.parts[index + 1 :])))


def unify(a: Dimension, b: Dimension) -> None:
    """From now on `a` and `b` have the same index; raises `Misfit` where their sizes differ."""
    a, b = resolve(a), resolve(b)
    if a is b:
        return
    if size(a) != size(b):
        raise Misfit
    if is_frozen(a):
        freeze(b, *reasons(a))
    elif is_frozen(b):
        freeze(a, *reasons(b))
    elif isinstance(a, Axis):
        _merge(a, b)
    elif isinstance(b, Axis):
        _merge(b, a)
    else:
        _refine(a, b)


def _merge(axis: Axis, e: Dimension) -> None:
    if any(leaf is axis for leaf in leaves(e)):
        freeze(e, "an index that depends on itself")
    else:
        axis.became = e


def _refine(a: Cat | Mul, b: Cat | Mul) -> None:
    try:
        (first, rest), (other, others) = _split_alike(a, b)
    except Misfit:
        for e in (a, b):
            freeze(e, "two block structures that do not fit")
        return
    unify(first, other)
    unify(rest, others)


def _split_alike(a: Cat | Mul, b: Cat | Mul) -> tuple[tuple[Dimension, Dimension], tuple[Dimension, Dimension]]:
    """Both in two: where their first borders allow it, joined or as rows."""
    head, other = size(a.parts[0]), size(b.parts[0])
    if isinstance(a, Cat) and isinstance(b, Cat):
        return cut(a, min(head, other)), cut(b, min(head, other))
    if isinstance(a, Mul) and isinstance(b, Mul):
        rows = math.gcd(head, other)
        if rows == 1:
            raise Misfit
        return factor(a, rows), factor(b, rows)
    border, rows = (head, other) if isinstance(a, Cat) else (other, head)
    try:
        return cut(a, border), cut(b, border)
    except Misfit:
        return factor(a, rows), factor(b, rows)


def select(e: Dimension, keep: Mapping[Axis, Tensor]) -> Tensor:
    """The positions of `e` that stay, in their new order, for the kept positions of some axes."""
    e = resolve(e)
    if isinstance(e, Axis):
        return keep[e] if e in keep else torch.arange(e.size)
    if isinstance(e, Cat):
        found, offset = [], 0
        for part in e.parts:
            found.append(select(part, keep) + offset)
            offset += size(part)
        return torch.cat(found)
    total = torch.zeros(1, dtype=torch.int64)
    for part in e.parts:
        total = (total[:, None] * size(part) + select(part, keep)).flatten()
    return total


def label(e: Dimension, axis: Axis) -> Tensor:
    """For each position of `e` its position on `axis`, -1 where `axis` takes no part."""
    e = resolve(e)
    if isinstance(e, Axis):
        return torch.arange(e.size) if e is axis else torch.full((e.size,), -1)
    if isinstance(e, Cat):
        return torch.cat([label(part, axis) for part in e.parts])
    total = torch.full((1,), -1)
    for part in e.parts:
        total = torch.maximum(total[:, None], label(part, axis)).flatten()
    return total
