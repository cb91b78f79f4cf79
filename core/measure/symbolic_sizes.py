"""Which sizes in the file of a network depend on which widths, found by writing the network at several widths.

An exporter gives no names that would lead from a tensor of a file back to the network. So the network is cut to a few
sets of widths in which no two groups change alike: a size is known by the row of numbers that it has in these files.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from core.network.surgery import Channels, Group
from core.network.surgery.call import Value
from core.network.surgery.dimensions import Axis, Dimension, leaves, resolve, settled_size


@final
@dataclass(frozen=True)
class Scaled:
    """A size that changes: `up / down` times a dimension of the network, such as batch × channels."""

    base: Dimension
    up: int = 1
    down: int = 1

    def at(self, sizes: Mapping[Dimension, int]) -> int:
        """The size where the dimension, or axes that it is made of, have these sizes."""
        return size_of(self.base, sizes) * self.up // self.down


Size: TypeAlias = int | Scaled


def size_of(dimension: Dimension, sizes: Mapping[Dimension, int]) -> int:
    """The size of a dimension where it, or axes that it is made of, have these sizes."""
    if dimension in sizes:
        return sizes[dimension]
    return settled_size(dimension, {each: size for each, size in sizes.items() if isinstance(each, Axis)})


def choose_probes(groups: Sequence[Group]) -> list[dict[Group, int]]:
    """Sets of widths such that no two groups of one size have the same row of widths, and each has a smaller one.

    One set is enough where there are fewer groups of a size than it has smaller widths.
    """
    by_size: dict[int, list[Group]] = {}
    for group in groups:
        by_size.setdefault(group.size, []).append(group)
    count = max((_digits(len(alike), size) for size, alike in by_size.items()), default=0)
    probes: list[dict[Group, int]] = [{} for _ in range(count)]
    for size, alike in by_size.items():
        for number, group in enumerate(alike, 1):
            # The number in the base `size`, as what is cut: near the full width where it can be.
            for place, probe in enumerate(probes):
                probe[group] = size - number // size**place % size
    return probes


def _digits(count: int, base: int) -> int:
    """How many digits to a base numbers up to `count` have."""
    digits = 1
    while base**digits <= count:
        digits += 1
    return digits


@final
class SizeBook:
    """The dimensions of a network by the row of sizes that they have at several sets of widths, the full ones first.

    `axes` are those that the sets of widths cut.
    """

    def __init__(self, channels: Channels, probes: Sequence[Mapping[Group, int]]) -> None:
        rows: list[dict[Axis, int]] = [{}, *({group.axis: width for group, width in each.items()} for each in probes)]
        self.axes = frozenset(group.axis for each in probes for group in each)
        ledger = channels.analysis.ledger
        every = {id(e): e for value in ledger.values.values() for e in map(resolve, _dimensions(value))}
        every |= {id(e): e for _, dims in ledger.tensors.values() for e in map(resolve, dims)}
        every |= {id(group.axis): group.axis for probe in probes for group in probe}
        self._known: dict[tuple[int, ...], Dimension] = {}
        for e in sorted(every.values(), key=lambda e: len(leaves(e))):
            row = tuple(settled_size(e, widths) for widths in rows)
            if len(set(row)) > 1:
                self._known.setdefault(row, e)

    def find(self, row: Sequence[int]) -> Size | None:
        """What has these sizes; None where no dimension has, nor a fixed share or multiple of one."""
        if len(set(row)) == 1:
            return row[0]
        for known, e in self._known.items():
            if known == tuple(row):
                return Scaled(e)
        for known, e in self._known.items():
            if all(size * known[0] == row[0] * other for size, other in zip(row, known, strict=True)):
                shared = math.gcd(row[0], known[0])
                return Scaled(e, row[0] // shared, known[0] // shared)
        return None


def _dimensions(value: Value) -> Iterator[Dimension]:
    if isinstance(value, list):
        yield from value
    for each in value if isinstance(value, tuple) else ():
        yield from _dimensions(each)
