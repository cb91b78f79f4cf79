"""Inputs drawn from the shapes and ranges of a network, for jobs without data."""

import zlib
from collections.abc import Iterator, Mapping
from typing import final

import numpy as np

from core.data.columns import Array, Column, Rows, row_bytes
from core.data.dataset import Dataset
from core.data.splits import Split
from core.data.tokens import part_of_input
from core.data.transform import Transform, dtype_of
from core.data.wiring import Samples
from core.description import InputMapping, SplitName, TensorDescription

SAMPLES: Mapping[SplitName, int] = {"calibration": 512, "validation": 256, "evaluation": 512}
# What a free size becomes of which no usual number is known.
FREE_SIZE = 16
# Integers of which no table is known.
SMALL_INTEGERS = 2


@final
class DrawnColumn(Column):
    """Row i of an input is drawn from (seed, input, i) alone: normal floats, integers below `limit`, masks of ones."""

    is_made = True

    def __init__(self, tensor: TensorDescription, shape: tuple[int, ...], *, limit: int, seed: int) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float32) if tensor.dtype.startswith(("float", "bfloat")) else np.dtype(np.int64)
        self._part = part_of_input(tensor.name)
        self._limit = SMALL_INTEGERS if tensor.dtype == "bool" else limit
        self._seed = (seed, zlib.crc32(tensor.name.encode()))

    def read(self, rows: Rows) -> Array:
        """The rows (len(rows), …)."""
        return np.stack([self._draw(row) for row in rows.tolist()]) if len(rows) else np.empty((0, *self.shape[1:]))

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return row_bytes(self, rows)

    def _draw(self, row: int) -> Array:
        rng, shape = np.random.default_rng((*self._seed, row)), self.shape[1:]
        if self.dtype.kind == "f":
            return rng.standard_normal(shape, np.float32)
        if self._part == "mask":
            return np.ones(shape, np.int64)
        if self._part == "types":
            return np.zeros(shape, np.int64)
        if self._part == "positions" and shape:
            return np.broadcast_to(np.arange(shape[-1]), shape)
        return rng.integers(0, self._limit, shape)


def synthesise(
    inputs: tuple[TensorDescription, ...], limits: Mapping[str, int], seed: int, *, sizes: Mapping[str, int]
) -> Dataset:
    """Unlabelled samples for a network with these inputs.

    `limits` are by input the sizes of the tables that integers index, `sizes` usual numbers for free sizes. The same
    seed gives the same samples. What a float input is worth in real life is not known: it is normal noise.
    """
    total = sum(SAMPLES.values())
    columns: dict[str, Column] = {
        tensor.name: DrawnColumn(
            tensor,
            (total, *(size if isinstance(size, int) else sizes.get(size, FREE_SIZE) for size in tensor.sample_shape)),
            limit=limits.get(tensor.name, SMALL_INTEGERS),
            seed=seed,
        )
        for tensor in inputs
    }
    samples, splits, start = Samples(columns, None), {}, 0
    for name, count in SAMPLES.items():
        splits[name] = Split(samples, np.arange(start, start + count, dtype=np.int64))
        start += count
    transforms = {tensor.name: Transform(InputMapping(), dtype_of(tensor), tensor.batch_axis) for tensor in inputs}
    return Dataset("none", inputs, None, splits, transforms, synthetic=True)
