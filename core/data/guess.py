"""Which columns are samples and labels, by their names, when a spec does not say."""

from collections.abc import Mapping, Sequence

from core.data.source import Source, Table
from core.description import DatasetSpec, FractionSplits, GivenSplits, SplitArrays, SplitName, Task
from core.errors import ModelpressError

# How arrays of the usual names are understood: split, samples, labels.
USUAL_ARRAYS: Sequence[tuple[SplitName, str, str]] = (
    ("train", "x_train", "y_train"),
    ("calibration", "x_calibration", "y_calibration"),
    ("validation", "x_validation", "y_validation"),
    ("validation", "x_val", "y_val"),
    ("evaluation", "x_test", "y_test"),
)
BARE_ARRAYS: Sequence[tuple[SplitName, str]] = (
    ("train", "train"),
    ("validation", "validation"),
    ("evaluation", "test"),
)
SAMPLES = (
    "image",
    "img",
    "images",
    "text",
    "sentence",
    "tokens",
    "words",
    "content",
    "sentence1",
    "text1",
    "x",
    "input",
)
LABELS: Mapping[Task, Sequence[str]] = {
    "classification": ("label", "labels", "fine_label", "class", "category", "target", "y"),
    "multi_label": ("labels", "label", "classes", "tags", "y"),
    "regression": ("target", "value", "label", "score", "y"),
    "token_classification": ("ner_tags", "tags", "pos_tags", "labels", "y"),
    "embedding": ("score", "similarity_score", "similarity", "label", "y"),
}
# A column of these names may also be one of several features.
AMBIGUOUS = ("x", "input")
VECTOR_TASKS = ("classification", "multi_label", "regression", "none")
PAIRS = ("sentence2", "text2", "pair", "positive")
# One table without splits is divided by the content of its samples.
FRACTIONS = FractionSplits(x="", fractions={"train": 0.7, "validation": 0.1, "evaluation": 0.2}, by="content")


def find_splits(source: Source, spec: DatasetSpec) -> GivenSplits | FractionSplits:
    """The splits of the spec, or those that names of files, folders and columns tell; raises `invalid_data`."""
    if spec.splits is not None:
        return spec.splits
    if not source.tables:
        return _of_arrays(source, spec.task)
    named: GivenSplits = {}
    for table in source.tables:
        arrays = _of_table(table, spec.task)
        if table.split is None:
            if len(source.tables) == 1:
                return FRACTIONS.model_copy(update=dict(arrays))
            raise ModelpressError(
                "invalid_data",
                "Some files are named after a split and others are not.",
                hint="Name all after their split, such as `train.csv` and `test.csv`, or set `splits`.",
            )
        named[table.split] = arrays
    return named


def _of_arrays(source: Source, task: Task) -> GivenSplits | FractionSplits:
    names = source.loaders
    found: GivenSplits = {
        split: SplitArrays(x=x, y=y if y in names and task != "none" else None)
        for split, x, y in USUAL_ARRAYS
        if x in names
    }
    found |= {split: SplitArrays(x=x) for split, x in BARE_ARRAYS if x in names and split not in found}
    if found:
        return found
    if "x" in names:
        y = "y" if "y" in names and task != "none" else None
        return FRACTIONS.model_copy(update={"x": "x", "y": y})
    raise ModelpressError(
        "invalid_data",
        f"It is not clear which of these arrays are samples: {', '.join(sorted(names)[:50]) or 'none'}.",
        hint='Set `splits`, such as {"evaluation": {"x": "images", "y": "labels"}}.',
    )


def _is_feature(name: str, table: Table, task: Task) -> bool:
    """Whether a column of an ambiguous name is one number a row of many."""
    return name in AMBIGUOUS and name in table.numeric and task in VECTOR_TASKS


def _features(table: Table, task: Task, y: str | None) -> tuple[str, ...]:
    """All columns but the label, where every one of them holds numbers."""
    names = tuple(name for name in table.columns if name != y)
    usable = task in VECTOR_TASKS and (y is not None or task == "none") and table.numeric.issuperset(names)
    return names if usable else ()


def _of_table(table: Table, task: Task) -> SplitArrays:
    labels = [name for name in LABELS.get(task, ()) if name in table.columns]
    x = next((name for name in SAMPLES if name in table.columns and not _is_feature(name, table, task)), None)
    y = next((name for name in labels if name != x), None)
    features = () if x else _features(table, task, y)
    if x is None and not features:
        raise ModelpressError(
            "invalid_data",
            f"It is not clear which of these columns are samples: {', '.join(table.columns[:50])}.",
            hint='Set `splits`, such as {"evaluation": {"x": "text", "y": "label"}}; columns of numbers are a list: '
            '{"x": ["age", "height"], "y": "label", "fractions": {"evaluation": 0.2}}.',
        )
    pair = next((name for name in PAIRS if name in table.columns), None) if task == "embedding" else None
    return SplitArrays(
        x=table.full_name(x) if x else tuple(map(table.full_name, features)),
        y=table.full_name(y) if y else None,
        pair=table.full_name(pair) if pair else None,
    )
