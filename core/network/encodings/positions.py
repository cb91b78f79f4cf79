"""Where the weights are that a mask keeps: as one bit a weight, or as gaps between them, whichever is smaller."""

from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor

from core.network.encodings.packing import PLANES, Packed, packed_size
from core.network.encodings.writer import V, Writer

Form = Literal["bits", "gaps"]

# What the nodes that read gaps, and those that read one more plane, take in an ONNX file: bytes, about.
_NODES: Final = 250
_PLANE: Final = 250


@final
@dataclass(frozen=True)
class Positions:
    """The kept weights among `size`.

    As `bits`, `codes` has a 1 for each that is kept. As `gaps`, the distance of each from the one before is coded as by
    Rice (JPL Publication 91-3, 1991): with codes of k bits, distance − 1 = 2^k · quotient + remainder; `codes` has the
    remainders and `quotients` as many zeros as each quotient says, and a 1 after them. It takes some hundredths of a
    bit a weight more than the entropy of a mask without order, where a code of one width for all (arXiv 1510.00149,
    section 2) takes half a bit. The first is counted from −2^k, which saves its reader a sum.
    """

    form: Form
    size: int
    codes: Packed
    quotients: Packed

    @classmethod
    def of(cls, mask: Tensor) -> "Positions":
        """The form of a flat mask of booleans that takes the fewest bytes in a file."""
        size, places = mask.numel(), mask.nonzero().reshape(-1)
        costs = {width: _gap_bytes(places, width) for width in PLANES}
        width = min(costs, key=lambda each: costs[each])
        if packed_size(size, 1) <= costs[width] or not places.numel():
            return cls("bits", size, Packed.of(mask, 1), Packed.of(mask[:0], 1))
        quotients, remainders = _divided(places, width)
        stops = torch.zeros(int(quotients.sum()) + quotients.numel(), dtype=torch.bool)
        stops[(quotients + 1).cumsum(0) - 1] = True
        return cls("gaps", size, Packed.of(remainders, width), Packed.of(stops, 1))

    @classmethod
    def split(cls, form: Form, size: int, joined: Tensor, *, bits: int, count: int) -> "Positions":
        """What `joined` made one tensor of; of `gaps` there are `count`, with remainders of so many bits."""
        rest = packed_size(count, bits)
        codes = Packed.split(joined[:rest], bits, count)
        return cls(form, size, codes, Packed.split(joined[rest:], 1, (joined.numel() - rest) * 8))

    def joined(self) -> Tensor:
        """All that is stored: uint8."""
        return torch.cat([self.codes.joined(), self.quotients.joined()])

    def mask(self) -> Tensor:
        """The flat mask again."""
        if self.form == "bits":
            return self.codes.codes().bool()
        width = self.codes.bits
        stops = self.quotients.codes().nonzero().reshape(-1)
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[(stops << width) + (self.codes.codes().long() - (2**width - 1)).cumsum(0)] = True
        return mask

    def spread(self, writer: Writer[V], kept: V, *, integer: bool) -> V:
        """Write the vector of all weights, from the values of those that are kept; the others are zero."""
        if self.form == "bits":
            ranks = writer.settle(writer.ranks(self.codes, "positions", "indices"))
            found = writer.pick(writer.zero_first(kept, None, integer=integer), ranks)
            return writer.settle(writer.trim(found, self.size))
        places = writer.settle(writer.subtract(self._passed(writer), self._stops(writer)))
        return writer.settle(writer.scatter(kept, places, self.size, integer=integer))

    def _passed(self, writer: Writer[V]) -> V:
        """Of each kept weight the sum of remainders up to it, less 2^k − 1 for each of them."""
        most = 2**self.codes.bits - 1
        table = writer.levels(-most, most + 1, integer=True)
        shape = (self.codes.count,)
        return writer.running_sum(writer.look_up(self.codes, "positions", "indices", table, shape))

    def _stops(self, writer: Writer[V]) -> V:
        """Of each kept weight the place of its 1 among the quotients, times −2^k."""
        factor = -(2**self.codes.bits)
        return writer.places(self.quotients, "quotients", "indices", self.codes.count, factor=factor)


def _divided(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Quotients and remainders of the distances between kept weights, less 1: int64."""
    passed = torch.diff(places, prepend=places.new_full((1,), -(2**width))) - 1
    return passed >> width, passed & (2**width - 1)


def _gap_bytes(places: Tensor, width: int) -> int:
    """What gaps with remainders of so many bits take in a file, about."""
    quotients, _ = _divided(places, width)
    stops = packed_size(int(quotients.sum()) + quotients.numel(), 1)
    return packed_size(places.numel(), width) + stops + _NODES + _PLANE * (len(PLANES[width]) - 1)
