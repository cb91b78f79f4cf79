"""Codes of 1 to 8 bits in bytes: planes whose widths are powers of two, so that no code crosses a byte."""

import math
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

# By the bits of a code, the widths of its planes, lowest bits first.
PLANES: Final[dict[int, tuple[int, ...]]] = {
    1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,),
}  # fmt: skip
BYTE: Final = 8
# Codes that one byte of each plane has at most in common.
_TOGETHER: Final = 8


def bits_for(codes: int) -> int:
    """Bits that tell so many codes apart; at least 1."""
    return max((codes - 1).bit_length(), 1)


@final
@dataclass(frozen=True)
class Packed:
    """`count` codes of `bits` bits; one uint8 tensor a plane, the first code in the lowest bits of the first byte."""

    bits: int
    count: int
    planes: tuple[Tensor, ...]

    @classmethod
    def of(cls, codes: Tensor, bits: int) -> "Packed":
        """Pack codes 0 … 2^bits − 1 (any shape)."""
        flat = codes.reshape(-1).to(torch.uint8)
        padded = _padded(flat.numel(), bits)
        flat = torch.cat([flat, flat.new_zeros(padded - flat.numel())])
        planes, base = [], 0
        for width in PLANES[bits]:
            part = (flat >> base) & (2**width - 1)
            shifts = torch.arange(0, 8, width, dtype=torch.uint8)
            # The bits do not overlap, so that their sum is their union.
            planes.append((part.reshape(-1, 8 // width) << shifts).sum(1, dtype=torch.uint8))
            base += width
        return cls(bits, codes.numel(), tuple(planes))

    @classmethod
    def split(cls, joined: Tensor, bits: int, count: int) -> "Packed":
        """What `joined` made one tensor of."""
        sizes = [_padded(count, bits) * width // 8 for width in PLANES[bits]]
        return cls(bits, count, torch.split(joined, sizes))

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(plane.numel() for plane in self.planes)

    @property
    def together(self) -> int:
        """Codes that a byte of the first plane holds."""
        return 8 // PLANES[self.bits][0]

    def joined(self) -> Tensor:
        """All planes one after the other: uint8, shape (size,)."""
        return torch.cat(self.planes)

    def codes(self) -> Tensor:
        """The codes again: uint8, shape (count,)."""
        found = torch.zeros(_padded(self.count, self.bits), dtype=torch.uint8)
        base = 0
        for width, plane in zip(PLANES[self.bits], self.planes, strict=True):
            shifts = torch.arange(0, 8, width, dtype=torch.uint8)
            found |= ((plane.unsqueeze(1) >> shifts) & (2**width - 1)).reshape(-1) << base
            base += width
        return found[: self.count]


def packed_size(count: int, bits: int) -> int:
    """Bytes of so many codes."""
    return _padded(count, bits) * bits // 8


def _padded(count: int, bits: int) -> int:
    together = _TOGETHER if len(PLANES[bits]) > 1 else 8 // bits
    return math.ceil(count / together) * together
