"""Which format the files of a data set have, by their content, and their columns."""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from core.data.cells import DAMAGE
from core.data.folder import open_folder
from core.data.lines import open_csv, open_jsonl, open_text
from core.data.npz import NpzArchive
from core.data.parquet import open_parquet
from core.data.preprocessor import is_preprocessor, read_preprocessor
from core.data.source import DataFile, Loader, Source
from core.data.tensors import SafetensorsFile
from core.description import DataFormat, Task
from core.errors import ModelpressError
from core.network.safetensors_header import MAX_HEADER_BYTES

HEAD_BYTES = 1 << 16
CSV_SUFFIXES = (".csv", ".tsv")
TABLES: Mapping[DataFormat, Callable[[list[DataFile]], Source]] = {
    "parquet": open_parquet,
    "csv": open_csv,
    "jsonl": open_jsonl,
}
FOREIGN = {
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x89HDF": "HDF5",
    b"\x1f\x8b": "gzip",
    b"ARROW1": "an Arrow file",
    b"\x93NUMPY": "a single .npy array",
    b"\xff\xd8\xff": "a single JPEG image",
    b"\x89PNG": "a single PNG image",
    b"RIFF": "audio or video",
}
# Where a single image of this format has the name of the format, after `RIFF` and the length.
WEBP_AT, WEBP = slice(8, 12), b"WEBP"


def open_source(files: Sequence[DataFile | Path], task: Task) -> Source:
    """The columns of the files, which are all of one format beside a tokenizer and a preprocessor.

    Raises `invalid_data`.
    """
    data: list[DataFile] = []
    tokenizer = preprocessor = None
    for file in (DataFile(each, each.name) if isinstance(each, Path) else each for each in files):
        if is_tokenizer(file):
            tokenizer = file
        elif is_preprocessor(file):
            preprocessor = read_preprocessor(file)
        else:
            data.append(file)
    formats = [recognise(file) for file in data]
    if len(set(formats)) != 1:
        told = ", ".join(f"{file.name} is {name}" for file, name in zip(data, formats, strict=True)) or "there is none"
        raise ModelpressError("invalid_data", f"The files of a data set must be of one format: {told}.")
    found = _open(formats[0], data, task)
    return Source(found.format, found.loaders, found.tables, found.label_names, tokenizer, preprocessor, found.notes)


def recognise(file: DataFile) -> DataFormat:
    """The format of a file by its first bytes, of CSV by its name; raises `invalid_data`."""
    with file.path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise ModelpressError(
                "invalid_data",
                f"{file.name} is {'a single WebP image' if head[WEBP_AT] == WEBP else what}, which is not read.",
                hint=f"These are read: {', '.join(get_args(DataFormat))}.",
            )
    if head.startswith(b"PK"):
        return "npz" if _holds_arrays(file) else "images"
    if head.startswith(b"PAR1"):
        return "parquet"
    if int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES and head[8:9] == b"{":
        return "safetensors"
    return _recognise_text(file, head)


def is_tokenizer(file: DataFile) -> bool:
    """Whether a file is a `tokenizer.json` of the library `tokenizers`."""
    if file.name.rsplit("/", 1)[-1] == "tokenizer.json":
        return True
    with file.path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    return head.lstrip().startswith(b"{") and b'"added_tokens"' in head and b'"truncation"' in head


def _recognise_text(file: DataFile, head: bytes) -> DataFormat:
    if not head or b"\0" in head:
        what = "is empty" if not head else "is neither text nor a format that is read"
        raise ModelpressError(
            "invalid_data", f"{file.name} {what}.", hint=f"These are read: {', '.join(get_args(DataFormat))}."
        )
    if file.name.lower().endswith(CSV_SUFFIXES):
        return "csv"
    if not head.lstrip().startswith(b"{"):
        return "text"
    # A first line longer than what was read is no reason to take JSONL for text.
    line, end, _ = head.lstrip().partition(b"\n")
    try:
        return "jsonl" if not end or isinstance(json.loads(line), dict) else "text"
    except (ValueError, RecursionError):
        return "text"


def _holds_arrays(file: DataFile) -> bool:
    try:
        with zipfile.ZipFile(file.path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except DAMAGE as error:
        raise ModelpressError(
            "invalid_data",
            f"{file.name} cannot be read: it is damaged, cut short, or not a zip file.",
            hint="Write it again and upload it again.",
        ) from error


def _open(kind: DataFormat, files: list[DataFile], task: Task) -> Source:
    match kind:
        case "npz":
            archives = [NpzArchive(file.path) for file in files]
            return Source(kind, _merge([_loaders(archive) for archive in archives]))
        case "safetensors":
            return Source(kind, _merge([_loaders(SafetensorsFile(file.path)) for file in files]))
        case "images":
            if len(files) != 1:
                raise ModelpressError("invalid_data", f"Images come in one zip; {len(files)} were given.")
            return open_folder(files[0].path)
        case "text":
            return open_text(files, whole=task == "language_modelling")
        case _:
            return TABLES[kind](files)


def _loaders(archive: NpzArchive | SafetensorsFile) -> dict[str, Loader]:
    return {name: partial(archive.read, name) for name in archive.entries}


def _merge(parts: list[dict[str, Loader]]) -> dict[str, Loader]:
    merged: dict[str, Loader] = {}
    for part in parts:
        if twice := sorted(merged.keys() & part.keys()):
            raise ModelpressError("invalid_data", f"Array `{twice[0]}` is in two files.")
        merged |= part
    return merged
