"""Inputs drawn from the shapes and ranges of a network, for jobs without data."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from core.data.columns import Array, Column, Rows, row_bytes
from core.data.dataset import Dataset
from core.data.splits import Split
from core.data.tokens import part_of_input
from core.data.transform import Transform, dtype_of
from core.data.wiring import Samples
from core.description import InputMapping, SplitName, TensorDescription
from core.network.input_statistics import InputStatistics

SAMPLES: Mapping[SplitName, int] = {"calibration": 512, "validation": 256, "evaluation": 512}
# What a free size becomes of which no usual number is known.
FREE_SIZE = 16
# Integers of which no table is known.
SMALL_INTEGERS = 2
BYTE_VALUES = 256
IMAGE_DIMENSIONS = 3
MOST_TOLD = 3

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


@final
@dataclass(frozen=True)
class Known:
    """What is known of the inputs of a network.

    `limits` are by input the sizes of the tables that integers index, `sizes` usual numbers for free sizes,
    `statistics` means and deviations of floats, `preprocessor` what the model's own does to images.
    """

    limits: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, InputStatistics] = field(default_factory=dict)
    preprocessor: InputMapping | None = None


@final
@dataclass(frozen=True)
class _Way:
    """How the rows of one input are drawn, what is done to them then, and a sentence's part that tells it."""

    draw: Draw
    told: str
    mapping: InputMapping = field(default_factory=InputMapping)


@final
class DrawnColumn(Column):
    """Row i of an input is drawn from (seed, input, i) alone."""

    is_made = True

    def __init__(self, tensor: TensorDescription, shape: tuple[int, ...], draw: Draw, seed: int) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float32 if _is_float(tensor) else np.int64)
        self._draw = draw
        self._seed = (seed, zlib.crc32(tensor.name.encode()))

    def read(self, rows: Rows) -> Array:
        """The rows (len(rows), …)."""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            found[place] = self._draw(np.random.default_rng((*self._seed, row)), self.shape[1:])
        return found

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return row_bytes(self, rows)


def synthesise(inputs: tuple[TensorDescription, ...], known: Known, seed: int) -> Dataset:
    """Unlabelled samples for a network with these inputs; the same seed gives the same samples.

    Pixels of a preprocessor are drawn evenly from 0 to 255, other floats are normal noise with the statistics that are
    known, or of mean 0 and deviation 1; integers are drawn below their limit, masks are ones. `assumed` of the data set
    tells which.
    """
    total = sum(SAMPLES.values())
    ways = {tensor.name: _way(tensor, known) for tensor in inputs}
    columns: dict[str, Column] = {
        tensor.name: DrawnColumn(
            tensor,
            (total, *(_number(size, known) for size in tensor.sample_shape)),
            ways[tensor.name].draw,
            seed,
        )
        for tensor in inputs
    }
    samples, splits, start = Samples(columns, None), {}, 0
    for name, count in SAMPLES.items():
        splits[name] = Split(samples, np.arange(start, start + count, dtype=np.int64))
        start += count
    transforms = {
        tensor.name: Transform(ways[tensor.name].mapping, dtype_of(tensor), tensor.batch_axis) for tensor in inputs
    }
    told = [f"`{name}` is {way.told}" for name, way in ways.items()]
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    assumed = "; ".join([*told[:MOST_TOLD], *more])
    return Dataset("none", inputs, None, splits, transforms, synthetic=True, assumed=assumed)


def _number(size: int | str, known: Known) -> int:
    return size if isinstance(size, int) else known.sizes.get(size, FREE_SIZE)


def _is_float(tensor: TensorDescription) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))


def _way(tensor: TensorDescription, known: Known) -> _Way:
    if not _is_float(tensor):
        return _integers(tensor, known)
    pixels = known.preprocessor
    # Only the preprocessor of images has a colour.
    if pixels is not None and pixels.colour is not None and len(tensor.sample_shape) == IMAGE_DIMENSIONS:
        channels = (0, 1, tensor.sample_shape[0])
        if len(pixels.mean) in channels and len(pixels.std) in channels:
            mapping = InputMapping(scale=pixels.scale, mean=pixels.mean, std=pixels.std)
            told = "random pixels from 0 to 255, prepared as the model's preprocessor says"
            return _Way(lambda rng, shape: rng.integers(0, BYTE_VALUES, shape), told, mapping)
    if (found := known.statistics.get(tensor.name)) is not None:
        told = f"normal noise of mean {_tell(found.mean)} and deviation {_tell(found.deviation)}, by {found.source}"
        return _Way(_normal(found.mean, found.deviation), told)
    return _Way(
        lambda rng, shape: rng.standard_normal(shape, np.float32),
        "normal noise of mean 0 and deviation 1, since nothing in the model tells its range",
    )


def _integers(tensor: TensorDescription, known: Known) -> _Way:
    match part_of_input(tensor.name):
        case "mask":
            return _Way(lambda _, shape: np.ones(shape, np.int64), "all ones")
        case "types":
            return _Way(lambda _, shape: np.zeros(shape, np.int64), "all zeros")
        case "positions" if len(tensor.shape) > 1:
            return _Way(lambda _, shape: np.broadcast_to(np.arange(shape[-1]), shape), "the positions in order")
    limit = known.limits.get(tensor.name, SMALL_INTEGERS)
    if tensor.dtype == "bool":
        limit = SMALL_INTEGERS
    elif tensor.dtype == "uint8" and limit == SMALL_INTEGERS:
        limit = BYTE_VALUES
    return _Way(lambda rng, shape: rng.integers(0, limit, shape), f"random integers from 0 to {limit - 1:,}")


def _normal(mean: tuple[float, ...], deviation: tuple[float, ...]) -> Draw:
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        sizes = (-1, *[1] * (len(shape) - 1))
        offset, scale = (np.array(values, np.float32).reshape(sizes) for values in (mean, deviation))
        drawn: Array = rng.standard_normal(shape, np.float32) * scale + offset
        return drawn

    return draw


def _tell(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values[:MOST_TOLD]) + (", …" if len(values) > MOST_TOLD else "")
