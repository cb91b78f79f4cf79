"""A data set as the rest of the product uses it: splits of samples, in batches of tensors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from core.data.checks import check_labels, check_pairing, check_samples, is_no_class, label_limit
from core.data.columns import Array, Column, Rows
from core.data.formats import is_tokenizer, open_source
from core.data.guess import find_splits
from core.data.overlap import find_copies
from core.data.preprocessor import is_preprocessor
from core.data.source import DataFile, Source, tell
from core.data.splits import Split, draw_splits, key_of
from core.data.tokens import UncutTexts
from core.data.transform import Transform, to_tensor
from core.data.wiring import MOST_TOKENS, Samples, Wiring
from core.description import (
    ArrayNames,
    DatasetSpec,
    FractionSplits,
    GivenSplits,
    SplitArrays,
    SplitName,
    Task,
    TensorDescription,
    Twin,
)
from core.errors import ModelpressError

REAL_LABELS = ("regression", "multi_label", "embedding")

Files = Sequence[DataFile | Path]


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` by name, each (n, …), and `pair`, the other side of each pair.

    `labels`: (n,) int64 of classes, (n, tokens) int64, (n, classes) or (n, …) float32, None without labels.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    pair: dict[str, Tensor] | None = None


@final
@dataclass(frozen=True)
class Dataset:
    """Checked samples in splits. `classes` is the number of classes or of tokens, None for other tasks.

    `synthetic` says that the samples were drawn, not given, and `assumed` how.
    """

    task: Task
    inputs: tuple[TensorDescription, ...]
    classes: int | None
    splits: Mapping[SplitName, Split]
    transforms: Mapping[str, Transform]
    label_names: tuple[str, ...] = ()
    label_limit: int | None = None
    synthetic: bool = False
    assumed: str = ""

    def count(self, split: SplitName) -> int:
        """The number of samples of a split; 0 when there is no such split."""
        return len(self.splits[split].rows) if split in self.splits else 0

    def labelled(self, split: SplitName) -> bool:
        """Whether the split exists and has labels."""
        return split in self.splits and self.splits[split].samples.labels is not None

    def batches(self, split: SplitName, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches in a fixed order, the last one may be smaller; raises `missing_data` when there is no such split."""
        count = len(self._split(split).rows[:limit])
        for start in range(0, count, batch_size):
            yield self.take(split, np.arange(start, min(start + batch_size, count), dtype=np.int64))

    def take(self, split: SplitName, positions: Rows) -> Batch:
        """The samples at these positions (n,) of a split, in this order; raises `missing_data` without the split."""
        samples, rows = self._split(split).samples, self._split(split).rows[positions]
        inputs, pair = (
            {name: self.transforms[name].apply(column.read(rows)) for name, column in side.items()}
            for side in (samples.columns, samples.pair)
        )
        start = int(positions[0]) if len(positions) else 0
        labels = None if samples.labels is None else self._labels(samples.labels.read(rows), start)
        return Batch(inputs, labels, pair or None)

    def _split(self, split: SplitName) -> Split:
        if split not in self.splits:
            raise ModelpressError("missing_data", f"The data set has no {split} split.")
        return self.splits[split]

    def overlap(self) -> int:
        """How many evaluation samples are, byte for byte, also in another split."""
        return self.copies(0)[0]

    def copies(self, most: int) -> tuple[int, tuple[Twin, ...]]:
        """That number, and the first `most` with their rows."""
        if "evaluation" not in self.splits or self.synthetic:
            return 0, ()
        others: dict[SplitName, Split] = {name: each for name, each in self.splits.items() if name != "evaluation"}
        return find_copies(self.splits["evaluation"], others, most)

    def _labels(self, rows: Array, start: int) -> Tensor:
        if self.task == "token_classification" and is_no_class(rows, self.label_limit, self.task).any():
            raise ModelpressError(
                "invalid_data",
                f"A label near sample {start} is not allowed: it must be from 0 to {(self.label_limit or 1) - 1}.",
            )
        return to_tensor(rows, torch.float32 if self.task in REAL_LABELS else torch.int64)


@dataclass(frozen=True)
class Opened:
    """A data set with where it came from."""

    dataset: Dataset
    source: Source
    splits: GivenSplits | FractionSplits


def open_dataset(
    files: Files,
    spec: DatasetSpec,
    inputs: tuple[TensorDescription, ...] | None = None,
    *,
    outputs: tuple[TensorDescription, ...] | None = None,
    beside: Files = (),
    longest: int | None = None,
) -> Dataset:
    """Read, check and split the files for a model with these inputs and outputs; raises `invalid_data`.

    A tokenizer or preprocessor `beside` the model serves where the files have none; `longest` is the longest text that
    a model takes which leaves the length free.
    """
    return open_files([*files, *_missing(files, beside)], spec, inputs, outputs, longest=longest).dataset


def open_files(
    files: Files,
    spec: DatasetSpec,
    inputs: tuple[TensorDescription, ...] | None = None,
    outputs: tuple[TensorDescription, ...] | None = None,
    *,
    longest: int | None = None,
) -> Opened:
    """The data set and its source. Without `inputs` the samples are checked by themselves; raises `invalid_data`."""
    source = open_source(files, spec.task)
    tokenizer = source.tokenizer.path if source.tokenizer else None
    wiring = Wiring(source, spec, inputs, tokenizer, longest or MOST_TOKENS)
    splits = find_splits(source, spec)
    arrays = {key_of(each): each for each in ([splits] if isinstance(splits, FractionSplits) else splits.values())}
    names, limit = wiring.class_names(list(arrays.values())), label_limit(outputs)
    samples = {key: wiring.samples(each, names, limit) for key, each in arrays.items()}
    transforms = {
        name: wiring.transform(name, column) for each in samples.values() for name, column in each.columns.items()
    }
    classes = [len(names)] if names else []
    for key, each in arrays.items():
        found = _check(each, samples[key], wiring, transforms, outputs)
        classes += [] if found is None else [found]
    described = tuple(
        _describe_input(name, transforms[name], [each.columns[name] for each in samples.values()], spec.task)
        for name in transforms
    )
    drawn = draw_splits(splits, samples)
    dataset = Dataset(spec.task, described, max(classes, default=None), drawn, transforms, names, limit)
    return Opened(dataset, source, splits)


def _missing(files: Files, beside: Files) -> Files:
    """The tokenizer and preprocessor that come with the model, where the data set has none."""
    roles = (is_tokenizer, is_preprocessor)
    given = [_named(file) for file in files]
    missing = [role for role in roles if not any(role(file) for file in given)]
    offered = [_named(file) for file in beside]
    found = (next((file for file in offered if role(file)), None) for role in missing)
    return [file for file in found if file is not None]


def _named(file: DataFile | Path) -> DataFile:
    return DataFile(file, file.name) if isinstance(file, Path) else file


def _check(
    arrays: SplitArrays,
    samples: Samples,
    wiring: Wiring,
    transforms: Mapping[str, Transform],
    outputs: tuple[TensorDescription, ...] | None,
) -> int | None:
    """The number of classes that the labels need; raises `invalid_data`."""
    sides: tuple[tuple[ArrayNames, Mapping[str, Column]], ...] = (
        (arrays.x, samples.columns),
        (arrays.pair or "", samples.pair),
    )
    for names, columns in sides:
        for name, column in columns.items():
            told = tell(names[name] if isinstance(names, dict) else names)
            check_samples(told, column, transforms[name], wiring.described(name))
            check_pairing(told, len(column), len(samples), "samples of another input")
    if samples.labels is None:
        return None
    told = arrays.y or str(arrays.x)
    check_pairing(str(arrays.x) if isinstance(arrays.x, dict) else tell(arrays.x), len(samples), len(samples.labels))
    return check_labels(told, samples.labels, wiring.spec.task, outputs)


def _describe_input(name: str, transform: Transform, columns: list[Column], task: Task) -> TensorDescription:
    if any(isinstance(column, UncutTexts) for column in columns):
        return TensorDescription(name=name, dtype="text", shape=("batch",))
    shapes = {transform.sample_shape(column.shape) for column in columns}
    if len(shapes) > 1 and task != "language_modelling":
        raise ModelpressError("invalid_data", f"The samples of the splits differ in shape: {sorted(shapes)}.")
    dtype = str(transform.dtype).removeprefix("torch.")
    return TensorDescription(name=name, dtype=dtype, shape=("batch", *shapes.pop()))
