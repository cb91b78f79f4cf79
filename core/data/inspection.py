"""What a data set holds, found by reading all of it once."""

from collections.abc import Iterator

import numpy as np

from core.data.dataset import Dataset, Files, open_files
from core.data.similarity import count_near_duplicates
from core.data.tokens import TokenColumn
from core.data.wiring import Samples
from core.description import DatasetDescription, DatasetSpec, SplitDescription, SplitName, TensorDescription

# At most so many samples of a split that must be decoded or tokenised are read.
MOST_MADE = 20_000
CHUNK = 256


def describe_dataset(files: Files, spec: DatasetSpec) -> DatasetDescription:
    """What the data set holds, checked without a model; raises `invalid_data` with the row that cannot be used."""
    opened = open_files(files, spec)
    dataset = opened.dataset
    unread = sum(
        _read(samples) for samples in {id(each.samples): each.samples for each in dataset.splits.values()}.values()
    )
    text = spec.task == "language_modelling"
    return DatasetDescription(
        format=opened.source.format,
        task=spec.task,
        inputs=tuple(_describe_input(dataset, tensor) for tensor in dataset.inputs),
        splits={
            name: SplitDescription(samples=_count(dataset, name), labelled=text or dataset.labelled(name))
            for name in dataset.splits
        },
        classes=dataset.classes,
        label_names=dataset.label_names,
        reading=opened.splits if spec.splits is None else None,
        warnings=(*_remark(dataset, unread), *opened.source.notes),
    )


def _describe_input(dataset: Dataset, tensor: TensorDescription) -> TensorDescription:
    """The input with what the model will decide left free: how many tokens a text is cut to."""
    column = next(iter(dataset.splits.values())).samples.columns[tensor.name]
    if tensor.dtype != "text" and dataset.task == "language_modelling":
        return tensor.model_copy(update={"shape": ("batch", "context")})
    return tensor.model_copy(update={"shape": ("batch", "tokens")}) if isinstance(column, TokenColumn) else tensor


def _read(samples: Samples) -> int:
    """Read what must be decoded or tokenised, so that a bad row is found now; the number of samples left unread."""
    sides = (*samples.columns.values(), *samples.pair.values(), *((samples.labels,) if samples.labels else ()))
    made = [column for column in sides if column.is_made]
    if not made:
        return 0
    rows = np.arange(0, len(samples), -(-len(samples) // MOST_MADE), dtype=np.int64)
    for start in range(0, len(rows), CHUNK):
        # Side by side, since the parts of a text are tokenised once.
        for column in made:
            column.read(rows[start : start + CHUNK])
    return len(samples) - len(rows)


def _count(dataset: Dataset, split: SplitName) -> int:
    """The samples of a split; of text the tokens to predict."""
    labels = dataset.splits[split].samples.labels
    width = labels.shape[1] if dataset.task == "language_modelling" and labels is not None else 1
    return dataset.count(split) * width


def _remark(dataset: Dataset, unread: int) -> Iterator[str]:
    """What a user should know of the data."""
    if any(tensor.dtype == "text" for tensor in dataset.inputs):
        yield "The samples are texts; a job needs a tokenizer, from the model or from `tokenizer.json` beside the data."
    elif dataset.task == "language_modelling":
        yield "Samples are tokens to predict; a job cuts the text into windows of its model's context."
    if unread:
        yield f"{unread:,} of the samples were not decoded by the inspection; they are checked when a job reads them."
    if "evaluation" not in dataset.splits:
        yield "There is no evaluation split, so no quality can be measured."
        return
    count = dataset.count("evaluation")
    exact = dataset.overlap() if dataset.task != "language_modelling" else 0
    if exact:
        yield f"{exact:,} of the {count:,} evaluation samples are also in another split."
    near = count_near_duplicates(dataset)
    if near is not None and near.found > exact:
        what = "passages of the evaluation text" if dataset.task == "language_modelling" else "evaluation samples"
        yield (
            f"At least {near.found:,} of the {near.compared:,} {what} that were compared are nearly the same as one of "
            f"another split, by {near.method}."
        )
