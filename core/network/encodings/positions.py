"""Where the weights are that a mask keeps: as one bit a weight, or as gaps between them, whichever is smaller."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from core.network.encodings.packing import PLANES, Packed, packed_size
from core.network.encodings.writer import V, Writer

Form = Literal["bits", "gaps"]


@final
@dataclass(frozen=True)
class Positions:
    """The kept weights among `size`.

    As `bits`, a 1 for each that is kept. As `gaps`, the distance of each from the one before (arXiv 1510.00149, section
    2): codes 1 … 2^bits − 1, and 0 where that many weights are passed and none is kept.
    """

    form: Form
    size: int
    codes: Packed

    @classmethod
    def of(cls, mask: Tensor) -> "Positions":
        """The smallest form of a flat mask of booleans."""
        size = mask.numel()
        gaps = _gaps(mask)
        smallest, width = min((packed_size(_entries(gaps, width), width), width) for width in PLANES)
        if packed_size(size, 1) <= smallest or not gaps.numel():
            return cls("bits", size, Packed.of(mask, 1))
        return cls("gaps", size, Packed.of(_codes(gaps, width), width))

    def mask(self) -> Tensor:
        """The flat mask again."""
        codes = self.codes.codes()
        if self.form == "bits":
            return codes.bool()
        steps = torch.where(codes == 0, 2**self.codes.bits - 1, codes.long())
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[(steps.cumsum(0) - 1)[codes > 0]] = True
        return mask

    def spread(self, writer: Writer[V], kept: V, *, integer: bool) -> V:
        """Write the vector of all weights, from the values of those that are kept; the others are zero."""
        codes = 2**self.codes.bits
        if self.form == "bits":
            ranks = writer.settle(writer.ranks(self.codes, "positions", "indices"))
            found = writer.pick(writer.zero_first(kept, None, integer=integer), ranks)
            return writer.settle(writer.trim(found, self.size))
        steps = writer.levels(0, codes, integer=True)
        if bool((self.codes.codes() == 0).any()):
            largest = writer.levels(codes - 1, 1, integer=True)
            passed = writer.scatter(largest, writer.levels(0, 1, integer=True), codes, integer=True)
            steps = writer.add(steps, passed)
            ones = writer.subtract(writer.levels(1, codes - 1, integer=True), writer.levels(0, codes - 1, integer=True))
            flags = writer.zero_first(ones, None, integer=True)
            kept = self._rank(writer, kept, flags, integer=integer)
        distances = writer.running_sum(self._look_up(writer, steps))
        places = writer.settle(writer.subtract(distances, writer.levels(1, 1, integer=True)))
        return writer.settle(writer.scatter(kept, places, self.size, integer=integer))

    def _rank(self, writer: Writer[V], kept: V, flags: V, *, integer: bool) -> V:
        """For each code the kept value that belongs to it, zero where there is none; `flags` says which have one."""
        flagged = self._look_up(writer, flags)
        ranks = writer.multiply(writer.running_sum(flagged), flagged)
        return writer.pick(writer.zero_first(kept, None, integer=integer), ranks)

    def _look_up(self, writer: Writer[V], table: V) -> V:
        return writer.look_up(self.codes, "positions", "indices", table, (self.codes.count,))


def _gaps(mask: Tensor) -> Tensor:
    """Distances between kept weights, the first counted from −1: int64."""
    places = mask.nonzero().reshape(-1)
    return torch.diff(places, prepend=places.new_full((1,), -1))


def _passes(gaps: Tensor, width: int) -> Tensor:
    """How many zeros stand before the code of each gap."""
    return torch.div(gaps - 1, 2**width - 1, rounding_mode="floor")


def _entries(gaps: Tensor, width: int) -> int:
    return gaps.numel() + int(_passes(gaps, width).sum())


def _codes(gaps: Tensor, width: int) -> Tensor:
    passes = _passes(gaps, width)
    codes = torch.zeros(gaps.numel() + int(passes.sum()), dtype=torch.uint8)
    places = (passes + 1).cumsum(0) - 1
    codes[places] = (gaps - passes * (2**width - 1)).to(torch.uint8)
    return codes
