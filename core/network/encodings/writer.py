"""What an encoding needs in order to write how its weight is rebuilt, once for every kind of file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Literal, TypeVar

from torch import Tensor

from core.network.encodings.packing import Packed

# What a constant counts as in the itemised bytes of a file.
Role = Literal["weights", "biases", "scales", "codebooks", "indices"]
V = TypeVar("V")


class Writer(ABC, Generic[V]):
    """Writes operators into a file; `V` stands for a value there. All arithmetic is fp32 and rounds as torch's."""

    def __init__(self) -> None:
        self._prefix = ""

    @contextmanager
    def under(self, prefix: str) -> Iterator[None]:
        """Let the names of constants begin with `prefix`, for an encoding that lies in another."""
        outer = self._prefix
        self._prefix = f"{outer}{prefix}_"
        try:
            yield
        finally:
            self._prefix = outer

    @abstractmethod
    def constant(self, suffix: str, role: Role, value: Tensor) -> V:
        """A stored tensor; "" is the suffix of the main one."""

    @abstractmethod
    def look_up(self, codes: Packed, suffix: str, role: Role, table: V, shape: Sequence[int]) -> V:
        """table[code] for each code, in `shape`; `table` has the shape (2^bits,) or less where no code is larger."""

    @abstractmethod
    def ranks(self, bits: Packed, suffix: str, role: Role) -> V:
        """For each bit that is set how many are set up to it, counted from 1, and 0 for the others: integers.

        Their shape is (count,), or (bytes, 8) with those that fill the last byte.
        """

    @abstractmethod
    def places(self, bits: Packed, suffix: str, role: Role, count: int, *, factor: int) -> V:
        """The places of the `count` bits that are set, in their order, times `factor` (negative): integers."""

    @abstractmethod
    def settle(self, value: V) -> V:
        """The same value; a place where whoever computes it once may forget what it came from."""

    @abstractmethod
    def trim(self, value: V, size: int) -> V:
        """The first `size` numbers of a vector, or of the rows of a matrix one after the other; may keep the shape."""

    @abstractmethod
    def levels(self, low: int, count: int, *, integer: bool = False) -> V:
        """The vector low, low + 1, … of `count` floats, or integers."""

    @abstractmethod
    def byte_levels(self, low: int, count: int) -> V:
        """The same in one byte each, for `low` ≥ −128; unsigned where it is not negative."""

    @abstractmethod
    def floats(self, value: V) -> V:
        """Cast to fp32."""

    @abstractmethod
    def reshape(self, value: V, shape: Sequence[int]) -> V:
        """The same numbers in another shape."""

    @abstractmethod
    def add(self, value: V, other: V) -> V:
        """Elementwise, broadcast."""

    @abstractmethod
    def subtract(self, value: V, other: V) -> V:
        """Elementwise, broadcast."""

    @abstractmethod
    def multiply(self, value: V, other: V) -> V:
        """Elementwise, broadcast."""

    @abstractmethod
    def product(self, left: V, right: V) -> V:
        """The product of two matrices."""

    @abstractmethod
    def pick(self, table: V, index: V) -> V:
        """table[index] of a vector, in the order of `index` (integers); of a matrix of these its shape may be lost."""

    @abstractmethod
    def zero_first(self, value: V, rows: int | None, *, integer: bool) -> V:
        """A zero before a vector, or before each row of a matrix of `rows` rows."""

    @abstractmethod
    def running_sum(self, value: V) -> V:
        """Inclusive sums along a vector of integers."""

    @abstractmethod
    def scatter(self, values: V, places: V, size: int, *, integer: bool) -> V:
        """A vector of `size` zeros with `values` at `places` (different integers)."""
