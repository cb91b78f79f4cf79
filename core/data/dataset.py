"""A data set as the rest of the product uses it: splits of samples, in batches of tensors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.data.checks import check_labels, check_pairing, check_samples
from core.data.npz import Array, NpzArchive
from core.data.overlap import count_overlap
from core.data.splits import Rows, draw_splits
from core.data.transform import Transform, to_tensor
from core.description import (
    DatasetDescription,
    DatasetSpec,
    FractionSplits,
    InputMapping,
    SplitDescription,
    SplitName,
    TensorDescription,
)
from core.errors import ModelpressError

# Context of a language model whose input leaves it free.
FREE_CONTEXT = 128


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` by name, each (n, …); `labels` (n,) int64, (n, context) int64 or (n, …) float32, None without labels."""

    inputs: dict[str, Tensor]
    labels: Tensor | None


@dataclass(frozen=True, slots=True)
class Split:
    """Arrays with one sample a row, and the rows that belong to the split, in order."""

    x: Array
    y: Array | None
    rows: Rows


@final
@dataclass(frozen=True)
class Dataset:
    """Checked samples in splits. `classes` is the number of classes or of tokens, None for other tasks."""

    task: str
    input: TensorDescription
    classes: int | None
    splits: Mapping[SplitName, Split]
    transform: Transform

    def count(self, split: SplitName) -> int:
        """The number of samples of a split; 0 when there is no such split."""
        return len(self.splits[split].rows) if split in self.splits else 0

    def labelled(self, split: SplitName) -> bool:
        """Whether the split exists and has labels."""
        return split in self.splits and self.splits[split].y is not None

    def batches(self, split: SplitName, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches in a fixed order, the last one may be smaller; raises `missing_data` when there is no such split."""
        if split not in self.splits:
            raise ModelpressError("missing_data", f"The data set has no {split} split.")
        chosen = self.splits[split]
        rows = chosen.rows[:limit]
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            labels = None if chosen.y is None else self._labels(chosen.y[part])
            yield Batch({self.input.name: self.transform.apply(chosen.x[part])}, labels)

    def overlap(self) -> int:
        """How many evaluation samples are, byte for byte, also in another split."""
        if "evaluation" not in self.splits:
            return 0
        evaluation = self.splits["evaluation"]
        others = [(split.x, split.rows) for name, split in self.splits.items() if name != "evaluation"]
        return count_overlap((evaluation.x, evaluation.rows), others)

    def _labels(self, rows: NDArray[Any]) -> Tensor:
        return to_tensor(rows, torch.float32 if self.task == "regression" else torch.int64)


def open_dataset(
    paths: Sequence[Path],
    spec: DatasetSpec,
    inputs: tuple[TensorDescription, ...] | None = None,
    *,
    outputs: tuple[TensorDescription, ...] | None = None,
) -> Dataset:
    """Read, check and split the arrays for a model with these inputs and outputs; raises `invalid_data`.

    Without `inputs` the samples are checked by themselves, and each token of a language model's text is a sample.
    """
    name, mapping = _choose_input(spec, inputs)
    wanted = inputs[0] if inputs else None
    context = _context(wanted) if spec.task == "language_modelling" else None
    dtype = _dtype(spec, wanted)
    transform = Transform(mapping, dtype)
    pairs = _pair_arrays(spec, _read_arrays(paths, spec), context)
    counts = {x: len(samples) for (x, _), (samples, _) in pairs.items()}
    splits = {
        split: Split(*pairs[chosen.x, chosen.y], chosen.rows)
        for split, chosen in draw_splits(spec, counts.__getitem__).items()
    }
    classes: int | None = None
    for (x_name, y_name), (x, y) in pairs.items():
        check_samples(x_name, x, transform, wanted)
        if y is not None:
            found = check_labels(y_name or x_name, y, spec.task, outputs)
            classes = max(classes or 0, found) if found is not None else None
    shapes = {transform.sample_shape(split.x.shape) for split in splits.values()}
    if len(shapes) > 1:
        raise ModelpressError("invalid_data", f"The samples of the splits differ in shape: {sorted(shapes)}.")
    return Dataset(spec.task, _describe_input(name, dtype, shapes.pop()), classes, splits, transform)


def describe_dataset(paths: Sequence[Path], spec: DatasetSpec) -> DatasetDescription:
    """What the data set holds, checked without a model; raises `invalid_data`."""
    dataset = open_dataset(paths, spec)
    text = spec.task == "language_modelling"
    described = dataset.input
    warnings = []
    if text:
        described = TensorDescription(name=described.name, dtype=described.dtype, shape=("batch", "context"))
        warnings.append("Samples are tokens to predict; a job cuts the text into windows of its model's context.")
    elif overlap := dataset.overlap():
        warnings.append(
            f"{overlap:,} of the {dataset.count('evaluation'):,} evaluation samples are also in another split."
        )
    if "evaluation" not in dataset.splits:
        warnings.append("There is no evaluation split, so no quality can be measured.")
    return DatasetDescription(
        format="npz",
        task=spec.task,
        inputs=(described,),
        splits={
            name: SplitDescription(samples=dataset.count(name), labelled=dataset.labelled(name))
            for name in dataset.splits
        },
        classes=dataset.classes,
        warnings=tuple(warnings),
    )


def _choose_input(spec: DatasetSpec, inputs: tuple[TensorDescription, ...] | None) -> tuple[str, InputMapping]:
    """The name of the network's input and its mapping; one mapping suits one input, whatever their names."""
    if inputs is not None and len(inputs) != 1:
        raise ModelpressError("invalid_data", f"The model has {len(inputs)} inputs; a data set can feed one.")
    if len(spec.inputs) > 1:
        raise ModelpressError("invalid_data", f"`inputs` maps {len(spec.inputs)} inputs; a data set can feed one.")
    mapped, mapping = next(iter(spec.inputs.items()), ("x", InputMapping()))
    return (inputs[0].name if inputs else mapped), mapping


def _read_arrays(paths: Sequence[Path], spec: DatasetSpec) -> dict[str, Array]:
    names = {name for pair in _array_names(spec) for name in pair if name is not None}
    archives = [NpzArchive(path) for path in paths]
    arrays: dict[str, Array] = {}
    for name in sorted(names):
        holders = [archive for archive in archives if name in archive.entries]
        if len(holders) != 1:
            known = ", ".join(sorted({name for archive in archives for name in archive.entries})) or "none"
            what = "is in two files" if holders else "is not there"
            raise ModelpressError("invalid_data", f"Array `{name}` {what}. Arrays found: {known}.")
        arrays[name] = holders[0].read(name)
        if arrays[name].ndim == 0:
            raise ModelpressError("invalid_data", f"Array `{name}` is a single number.")
    return arrays


def _array_names(spec: DatasetSpec) -> list[tuple[str, str | None]]:
    splits = [spec.splits] if isinstance(spec.splits, FractionSplits) else list(spec.splits.values())
    return list(dict.fromkeys((split.x, split.y) for split in splits))


def _pair_arrays(
    spec: DatasetSpec, arrays: dict[str, Array], context: int | None
) -> dict[tuple[str, str | None], tuple[Array, Array | None]]:
    """Samples and labels with one sample a row, by the names of their arrays."""
    pairs: dict[tuple[str, str | None], tuple[Array, Array | None]] = {}
    for x_name, y_name in _array_names(spec):
        x = arrays[x_name]
        y = None if y_name is None else arrays[y_name]
        if context is not None and y is None:
            x, y = _cut_text(x_name, x, context)
        elif y is not None and spec.task == "classification" and y.shape[1:] == (1,):
            y = y[:, 0]
        check_pairing(x_name, x, y)
        pairs[x_name, y_name] = (x, y)
    return pairs


def _cut_text(name: str, text: Array, context: int) -> tuple[Array, Array]:
    """Windows (n, context) of token ids, and as labels the token that follows each: no copy is made."""
    if text.ndim == 1:
        if len(text) <= context:
            raise ModelpressError("invalid_data", f"Text `{name}` is no longer than the context of {context} tokens.")
        text = np.lib.stride_tricks.sliding_window_view(text, context + 1)[::context]
    return text[:, :-1], text[:, 1:]


def _context(wanted: TensorDescription | None) -> int:
    if wanted is None:
        return 1
    size = wanted.shape[-1]
    return size if isinstance(size, int) else FREE_CONTEXT


def _dtype(spec: DatasetSpec, wanted: TensorDescription | None) -> torch.dtype:
    if wanted is None:
        return torch.int64 if spec.task == "language_modelling" else torch.float32
    # Networks compute in fp32 whatever the uploaded dtype was.
    return {"int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8}.get(wanted.dtype, torch.float32)


def _describe_input(name: str, dtype: torch.dtype, sample_shape: tuple[int, ...]) -> TensorDescription:
    return TensorDescription(name=name, dtype=str(dtype).removeprefix("torch."), shape=("batch", *sample_shape))
