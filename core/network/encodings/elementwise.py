"""Encodings that store a code for every weight: what they share, and what a mask over them needs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from core.network.encodings.encoding import Encoding
from core.network.encodings.packing import Packed
from core.network.encodings.writer import Role, V, Writer
from core.verdict import ItemisedBytes


class Elementwise(Encoding, ABC):
    """A code a weight, packed or as it is, and some tensors beside them."""

    @property
    @abstractmethod
    def bits(self) -> int | None:
        """The bits of a packed code; None where codes are stored in their own dtype."""

    @property
    @abstractmethod
    def codes(self) -> Tensor:
        """The codes in the shape of the weight: uint8 0 … 2^bits − 1, or numbers as they are stored."""

    @property
    def role(self) -> Role:
        """What the codes count as."""
        return "weights"

    @property
    def maskable(self) -> bool:
        """Whether a mask can drop codes."""
        return True

    @abstractmethod
    def sides(self) -> dict[str, tuple[Role, Tensor]]:
        """The tensors beside the codes and what they count as, by suffix."""

    @abstractmethod
    def at(self, weight: Tensor) -> Self:
        """The encoding of `weight` (same shape) on the same grid."""

    @classmethod
    @abstractmethod
    def rebuild(cls, config: Mapping[str, Any], codes: Tensor, sides: Mapping[str, Tensor]) -> Self:
        """The encoding that gave `config`, `codes` and `sides`."""

    def table(self, writer: Writer[V]) -> V:
        """The value of each packed code, a vector; of encodings whose codes are packed."""
        raise TypeError(f"{self.name} has no packed codes for {type(writer).__name__}")

    def values(self, writer: Writer[V], stored: V) -> V:
        """The values of codes that are stored as they are, of any shape; of encodings that have such."""
        raise TypeError(f"{self.name} packs its codes, {stored} for {type(writer).__name__} are not")

    @abstractmethod
    def finish(self, writer: Writer[V], values: V) -> V:
        """From the values of all codes, in the shape of the weight, to the weight; zero gives zero."""

    @property
    def integer_values(self) -> bool:
        """Whether what `finish` takes is integers."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tuple(self.codes.shape)

    def project(self, weight: Tensor) -> Tensor:
        """The nearest values of the same grid."""
        return self.at(weight).decode()

    def write(self, writer: Writer[V]) -> V:
        """Codes, values, and what scales them."""
        return self.finish(writer, self.write_codes(writer, self.codes))

    def write_codes(self, writer: Writer[V], codes: Tensor) -> V:
        """The values of some of the codes, in their shape."""
        if self.bits is None:
            return self.values(writer, writer.constant("", self.role, codes))
        return writer.look_up(Packed.of(codes, self.bits), "", self.role, self.table(writer), codes.shape)

    def store_codes(self, codes: Tensor) -> Tensor:
        """Some of the codes as they are stored: packed, or in their dtype."""
        return codes.contiguous() if self.bits is None else Packed.of(codes, self.bits).joined()

    def bytes(self) -> ItemisedBytes:
        """Codes and what lies beside them."""
        return ItemisedBytes(**self.count(self.codes))

    def count(self, codes: Tensor) -> dict[str, int]:
        """Bytes by item where only these codes are stored."""
        stored = self.store_codes(codes)
        items: dict[str, int] = {self.role: stored.numel() * stored.element_size()}
        for role, tensor in self.sides().values():
            items[role] = items.get(role, 0) + tensor.numel() * tensor.element_size()
        return items

    def stored(self) -> dict[str, Tensor]:
        """Codes, and what lies beside them."""
        return {"": self.store_codes(self.codes)} | self.stored_sides()

    def stored_sides(self) -> dict[str, Tensor]:
        """What lies beside the codes."""
        return {suffix: tensor.contiguous() for suffix, (_, tensor) in self.sides().items()}


def unpack(stored: Tensor, bits: int | None, shape: tuple[int, ...]) -> Tensor:
    """The codes in `shape`, from how they are stored."""
    return (
        stored.reshape(shape) if bits is None else Packed.split(stored, bits, math.prod(shape)).codes().reshape(shape)
    )


def fill_table(table: Tensor, bits: int) -> Tensor:
    """The table with zeros behind it for the codes that are not used: rows of codes are looked up together."""
    return torch.cat([table, table.new_zeros(2**bits - table.numel())])
