"""CSV, JSONL and plain text, read line by line."""

import codecs
import csv
import json
from collections.abc import Iterator
from functools import partial
from typing import TextIO

import numpy as np
from pydantic import JsonValue

from core.data.cells import MAX_CELL_BYTES, Cells, SpoolStore, pack
from core.data.columns import ArrayColumn, Column
from core.data.source import DataFile, Loader, Raw, Source, Table, group_by_split
from core.data.stack import stack_numbers
from core.errors import ModelpressError

PIECE_CHARACTERS = 1 << 16
MAX_COLUMNS = 10_000
DELIMITERS = (",", "\t", ";")

csv.field_size_limit(MAX_CELL_BYTES)


def open_csv(files: list[DataFile]) -> Source:
    """The columns that the first row names, every value a text. Raises `invalid_data` naming the row."""
    loaders: dict[str, Loader] = {}
    tables = []
    for split, parts in group_by_split(files).items():
        headers = [_csv_header(part) for part in parts]
        header = headers[0]
        if other := next((part for part, found in zip(parts, headers, strict=True) if found != header), None):
            raise ModelpressError("invalid_data", f"{other.name} has other columns than {parts[0].name}.")
        table = Table(split, header, _numeric(parts[0], header), partial(_stack_csv, parts, header))
        for place, column in enumerate(header):
            loaders[table.full_name(column)] = partial(_load_csv, parts, place, table.full_name(column))
        tables.append(table)
    return Source("csv", loaders, tuple(tables))


def open_jsonl(files: list[DataFile]) -> Source:
    """The members that the first line names; one object a line. Raises `invalid_data` naming the row."""
    loaders: dict[str, Loader] = {}
    tables = []
    for split, parts in group_by_split(files).items():
        first = next(_json_rows(parts[:1]), None)
        if first is None:
            raise ModelpressError("invalid_data", f"{parts[0].name} has no line.")
        numeric = frozenset(column for column, value in first.items() if _kind(value) == "number")
        table = Table(split, tuple(first), numeric, partial(_stack_json, parts))
        for column, value in first.items():
            loaders[table.full_name(column)] = partial(_load_json, parts, column, table.full_name(column), value)
        tables.append(table)
    return Source("jsonl", loaders, tuple(tables))


def open_text(files: list[DataFile], *, whole: bool) -> Source:
    """The column `text`: one line a sample, or, when `whole`, all text in pieces to be read one after the other."""
    loaders: dict[str, Loader] = {}
    tables = []
    for split, parts in group_by_split(files).items():
        table = Table(split, ("text",))
        loaders[table.full_name("text")] = partial(_load_text, parts, table.full_name("text"), whole=whole)
        tables.append(table)
    return Source("text", loaders, tuple(tables))


def _open(file: DataFile) -> TextIO:
    return file.path.open(encoding="utf-8-sig", newline="")


def _csv_header(file: DataFile) -> tuple[str, ...]:
    header = next(_csv_rows(file), None)
    if not header or len(header) > MAX_COLUMNS or len(set(header)) != len(header):
        raise ModelpressError("invalid_data", f"The first row of {file.name} must name each column once.")
    return tuple(header)


def _csv_rows(file: DataFile) -> Iterator[list[str]]:
    """Every row with the header first; raises `invalid_data` with the row and the line."""
    row, line = -1, 0
    try:
        with _open(file) as stream:
            head = stream.readline(PIECE_CHARACTERS)
            stream.seek(0)
            delimiter = max(DELIMITERS, key=head.count)
            width = None
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            for values in reader:
                # A row begins in the line after the last one; a quoted value may have several.
                begins, line = line + 1, reader.line_num
                if not values:
                    continue
                if width is not None and len(values) != width:
                    raise ModelpressError(
                        "invalid_data",
                        f"Row {row} of {file.name} (line {begins}) has {len(values)} values; the header has {width}.",
                    )
                width, row = len(values), row + 1
                yield values
    except csv.Error as error:
        raise ModelpressError(
            "invalid_data", f"Row {max(row, 0)} of {file.name} (line {line + 1}) cannot be read: {error}."
        ) from error
    except UnicodeDecodeError as error:
        raise _not_text(file) from error


def _load_csv(files: list[DataFile], place: int, full: str) -> Cells:
    def cells() -> Iterator[bytes]:
        for file in files:
            rows = _csv_rows(file)
            next(rows)
            for values in rows:
                yield values[place].encode()

    return Cells("text", full, SpoolStore(cells()))


def _stack_csv(files: list[DataFile], header: tuple[str, ...], names: tuple[str, ...]) -> Column:
    places = [header.index(name) for name in names]

    def rows() -> Iterator[list[str]]:
        for file in files:
            found = _csv_rows(file)
            next(found)
            for values in found:
                yield [values[place] for place in places]

    return stack_numbers(rows(), names)


def _numeric(file: DataFile, header: tuple[str, ...]) -> frozenset[str]:
    """The columns of which the first row is a number."""
    rows = _csv_rows(file)
    next(rows)
    return frozenset(name for name, value in zip(header, next(rows, []), strict=False) if _is_number(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_rows(files: list[DataFile]) -> Iterator[dict[str, JsonValue]]:
    row = 0
    for file in files:
        number = 0
        try:
            with _open(file) as stream:
                while line := stream.readline(MAX_CELL_BYTES):
                    number += 1
                    if line.strip():
                        yield _json_row(line, f"Row {row} of {file.name} (line {number})")
                        row += 1
        except UnicodeDecodeError as error:
            raise _not_text(file) from error


def _json_row(line: str, told: str) -> dict[str, JsonValue]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ModelpressError(
            "invalid_data", f"{told} is no JSON: {error.msg.removesuffix(' at')} at column {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelpressError("invalid_data", f"{told} is no JSON.") from error
    if not isinstance(found, dict):
        raise ModelpressError("invalid_data", f"{told} is no JSON object.")
    return found


def _load_json(files: list[DataFile], column: str, full: str, first: JsonValue) -> Raw:
    def values() -> Iterator[JsonValue]:
        for row, found in enumerate(_json_rows(files)):
            value = found.get(column)
            if value is None or _kind(value) != kind:
                raise ModelpressError("invalid_data", f"Row {row} of `{full}` is no {kind}, as the first is.")
            yield value

    kind = _kind(first)
    if kind is None:
        raise ModelpressError("invalid_data", f"`{full}` holds neither texts, numbers nor lists.")
    if kind == "number":
        return ArrayColumn(np.asarray(list(values())))

    def cells() -> Iterator[bytes]:
        for row, value in enumerate(values()):
            try:
                yield pack(value)
            except UnicodeEncodeError as error:
                raise ModelpressError(
                    "invalid_data", f"Row {row} of `{full}` has half of a surrogate pair, which is no text."
                ) from error

    return Cells("text" if kind == "text" else "list", full, SpoolStore(cells()))


def _stack_json(files: list[DataFile], names: tuple[str, ...]) -> Column:
    return stack_numbers(([row.get(name) for name in names] for row in _json_rows(files)), names)


def _kind(value: JsonValue) -> str | None:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | int | float):
        return "number"
    return "list" if isinstance(value, list) else None


def _load_text(files: list[DataFile], full: str, *, whole: bool) -> Cells:
    def pieces() -> Iterator[bytes]:
        for file in files:
            try:
                with _open(file) as stream:
                    while piece := stream.read(PIECE_CHARACTERS) if whole else stream.readline(MAX_CELL_BYTES):
                        if whole:
                            # A piece ends with a line, so that no word is cut.
                            yield (piece + stream.readline(PIECE_CHARACTERS)).encode()
                        elif piece.strip():
                            yield piece.strip("\r\n").encode()
            except UnicodeDecodeError as error:
                raise _not_text(file) from error

    return Cells("text", full, SpoolStore(pieces()))


def _not_text(file: DataFile) -> ModelpressError:
    """The error that says in which line a file stops being UTF-8."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with file.path.open("rb") as stream:
        while piece := stream.read(PIECE_CHARACTERS):
            try:
                decoder.decode(piece)
                line += piece.count(b"\n")
            except UnicodeDecodeError as error:
                # What was left over of the piece before has no line end.
                line += error.object.count(b"\n", 0, error.start)
                break
    return ModelpressError("invalid_data", f"{file.name} is no UTF-8 text in line {line}.", hint="Save it as UTF-8.")
