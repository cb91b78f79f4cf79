"""What a data set holds, found by reading all of it once."""

from collections.abc import Iterator

import numpy as np

from core.data.columns import CHUNK_ROWS
from core.data.dataset import Dataset, Files, open_files
from core.data.similarity import count_near_duplicates
from core.data.tokens import TokenColumn
from core.data.wiring import Samples
from core.description import DatasetDescription, DatasetSpec, SplitDescription, SplitName, TensorDescription, Twin

# At most so many samples of a split that must be decoded or tokenised are read.
MOST_MADE = 20_000
# Of more classes the samples are not counted one by one.
MOST_CLASSES = 1000
MOST_TWINS = 100
CHUNK = 256


def describe_dataset(files: Files, spec: DatasetSpec) -> DatasetDescription:
    """What the data set holds, checked without a model; raises `invalid_data` with the row that cannot be used."""
    opened = open_files(files, spec)
    dataset = opened.dataset
    unread = sum(
        _read(samples) for samples in {id(each.samples): each.samples for each in dataset.splits.values()}.values()
    )
    twins, remarks = _find_twins(dataset)
    text = spec.task == "language_modelling"
    return DatasetDescription(
        format=opened.source.format,
        task=spec.task,
        inputs=tuple(_describe_input(dataset, tensor) for tensor in dataset.inputs),
        splits={
            name: SplitDescription(
                samples=_count(dataset, name),
                labelled=text or dataset.labelled(name),
                per_class=_count_classes(dataset, name),
            )
            for name in dataset.splits
        },
        classes=dataset.classes,
        label_names=dataset.label_names,
        reading=opened.splits if spec.splits is None else None,
        twins=twins,
        warnings=(*_remark(dataset, unread), *remarks, *opened.source.notes),
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


def _count_classes(dataset: Dataset, split: SplitName) -> tuple[int, ...]:
    """How many samples of a split each class has; () where that cannot be told."""
    labels, classes = dataset.splits[split].samples.labels, dataset.classes
    if dataset.task not in ("classification", "multi_label") or labels is None or not classes:
        return ()
    if classes > MOST_CLASSES:
        return ()
    rows, counts = np.sort(dataset.splits[split].rows), np.zeros(classes, np.int64)
    for start in range(0, len(rows), CHUNK_ROWS):
        found = labels.read(rows[start : start + CHUNK_ROWS])
        if found.ndim == 1:
            counts += np.bincount(found.astype(np.int64), minlength=classes)
        else:
            counts[: found.shape[1]] += found.astype(np.int64).sum(axis=0)
    return tuple(counts.tolist())


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


def _find_twins(dataset: Dataset) -> tuple[tuple[Twin, ...], tuple[str, ...]]:
    """Samples of evaluation that are also in another split, or nearly, and sentences that tell it."""
    is_text = dataset.task == "language_modelling"
    exact, copies = (0, ()) if is_text else dataset.copies(MOST_TWINS)
    remarks = []
    if exact:
        count = dataset.count("evaluation")
        remarks.append(f"{exact:,} of the {count:,} evaluation samples are also in another split{_such_as(copies)}.")
    near = count_near_duplicates(dataset)
    if near is None or near.found <= exact:
        return copies, tuple(remarks)
    known = {twin.row for twin in copies}
    alike = tuple(twin for twin in near.twins if twin.row not in known)
    what = "passages of the evaluation text" if is_text else "evaluation samples"
    be = "is" if near.found == 1 else "are"
    remarks.append(
        f"At least {near.found:,} of the {near.compared:,} {what} that were compared {be} nearly the same as one of "
        f"another split, by {near.method}{_such_as(alike, 'token' if is_text else 'row')}."
    )
    return (*copies, *alike)[:MOST_TWINS], tuple(remarks)


def _such_as(twins: tuple[Twin, ...], what: str = "row") -> str:
    if not twins:
        return ""
    return f", such as {what} {twins[0].row:,}, which is {what} {twins[0].other_row:,} of {twins[0].split}"
