"""What every reader of a format gives: columns by name, read when they are asked for."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from core.data.cells import Cells
from core.data.columns import Column
from core.description import ColumnNames, DataFormat, InputMapping, SplitName
from core.errors import ModelpressError
from core.messages import StagedFile

Raw = Column | Cells
Loader = Callable[[], Raw]
Stacker = Callable[[tuple[str, ...]], Column]

# Words in the names of files and folders that say which split they hold.
SPLIT_WORDS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "evaluation",
    "eval": "evaluation",
    "evaluation": "evaluation",
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a data set: where it is, and the name that the user gave it."""

    path: Path
    name: str


def data_files(staged: Sequence[StagedFile]) -> list[DataFile]:
    """The uploaded files of a data set as a runner finds them."""
    return [DataFile(Path(file.path), file.filename) for file in staged]


@final
@dataclass(frozen=True)
class Table:
    """Columns with one sample a row that belong together; `split` is what their file or folder is named after.

    `numeric` are the columns that begin with a number; `stack` makes one column (n, names) of several of them.
    """

    split: SplitName | None
    columns: tuple[str, ...]
    numeric: frozenset[str] = frozenset()
    stack: Stacker | None = None

    def full_name(self, column: str) -> str:
        """The name by which a spec asks for a column: `train/image`, or `image` where no split is named."""
        return f"{self.split}/{column}" if self.split else column


@final
@dataclass(frozen=True)
class Source:
    """The columns of all files of a data set. `tables` is empty for formats of free arrays."""

    format: DataFormat
    loaders: Mapping[str, Loader]
    tables: tuple[Table, ...] = ()
    label_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokenizer: DataFile | None = None
    preprocessor: InputMapping | None = None
    notes: tuple[str, ...] = ()

    def load(self, names: ColumnNames) -> Raw:
        """A column, or several of numbers as one; raises `invalid_data` when there is none or it cannot be read."""
        return self._load(names) if isinstance(names, str) else self._stack(names)

    def _stack(self, names: tuple[str, ...]) -> Column:
        for table in self.tables:
            prefix = f"{table.split}/"
            bare = tuple(name.removeprefix(prefix) for name in names)
            own = all(name.startswith(prefix) for name in names) or len(self.tables) == 1 or table.split is None
            if own and table.stack is not None and set(bare) <= set(table.columns):
                return table.stack(bare)
        raise ModelpressError(
            "invalid_data",
            f"No table has all of the columns {tell(names)}.",
            hint="Name columns of CSV, JSONL or parquet, all of one split, such as `train/age` and `train/height`.",
        )

    def _load(self, name: str) -> Raw:
        alike = [loader for full, loader in self.loaders.items() if full.partition("/")[2] == name]
        if name not in self.loaders and len(alike) == 1 and len(self.tables) == 1:
            return alike[0]()
        if name not in self.loaders:
            known = ", ".join(sorted(self.loaders)[:50]) or "none"
            raise ModelpressError("invalid_data", f"Array `{name}` is not there. Arrays found: {known}.")
        return self.loaders[name]()


def tell(names: ColumnNames) -> str:
    """Names as a sentence has them: the first few."""
    if isinstance(names, str):
        return names
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def split_of(name: str) -> SplitName | None:
    """The split that a file or folder is named after, as in `data/train-00000-of-00002.parquet`."""
    word = re.split(r"[^a-z]+", name.rsplit("/", 1)[-1].lower().lstrip("."), maxsplit=1)[0]
    return SPLIT_WORDS.get(word)


def group_by_split(files: list[DataFile]) -> dict[SplitName | None, list[DataFile]]:
    """Files by the split that they are named after, in the order of their names."""
    groups: dict[SplitName | None, list[DataFile]] = {}
    for file in sorted(files, key=lambda each: each.name):
        groups.setdefault(split_of(file.name), []).append(file)
    return groups
