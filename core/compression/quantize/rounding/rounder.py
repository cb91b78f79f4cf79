"""What a method of rounding is: it collects rows of a layer's inputs, and then chooses among the values of a grid."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from core.compression.layer_walk import Rows, Tick
from core.compression.matrices import Product
from core.compression.quantize.rounding.snapper import Snapper
from core.network.encodings import Elementwise


@dataclass(frozen=True)
class Task:
    """A layer, its float weight as a matrix (groups, outputs, columns), its grid, and how many rows it may be given.

    `mask`, in the shape of the matrix, says which weights are kept; None where all are. `bias` is (groups, outputs).
    With `relu` the outputs, together with what they are added to where they are `added`, are clipped at zero.
    """

    layer: Product
    matrix: Tensor
    template: Elementwise
    grid: Snapper
    mask: Tensor | None
    bias: Tensor
    relu: bool
    added: bool
    rows: int


R = TypeVar("R", bound=Rows)


class Rounder(ABC, Generic[R]):
    """One way to choose values of a grid."""

    @abstractmethod
    def collect(self, task: Task) -> R:
        """Something that takes the rows of a layer."""

    @abstractmethod
    def remembered(self, groups: int, outputs: int, columns: int) -> int:
        """The most bytes that the rows of a layer of such a matrix take once they are collected."""

    @abstractmethod
    def choose(self, task: Task, rows: R, tick: Tick) -> Elementwise:
        """The encoding on the task's grid; `tick` is called now and then, to notice a cancel."""
