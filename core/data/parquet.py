"""Parquet files as Hugging Face writes them: images as {bytes, path}, texts, lists, numbers, named classes."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.data.cells import MAX_CELL_BYTES, Cells, SpoolStore, pack
from core.data.columns import ArrayColumn, Column
from core.data.source import DataFile, Loader, Raw, Source, Table, group_by_split
from core.data.stack import stack_numbers
from core.errors import ModelpressError

BATCH_ROWS = 256
BUFFER_BYTES = 1 << 20
# What pyarrow raises on a damaged file.
DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError)


def open_parquet(files: list[DataFile]) -> Source:
    """The columns of every split; shards of a split follow each other. Raises `invalid_data`."""
    loaders: dict[str, Loader] = {}
    tables: list[Table] = []
    names: dict[str, tuple[str, ...]] = {}
    for split, shards in group_by_split(files).items():
        schemas = [_schema(shard) for shard in shards]
        for shard, schema in zip(shards[1:], schemas[1:], strict=True):
            if schema.names != schemas[0].names:
                raise ModelpressError("invalid_data", f"{shard.name} has other columns than {shards[0].name}.")
        numeric = frozenset(name for name in schemas[0].names if _is_number(schemas[0].field(name).type))
        table = Table(split, tuple(schemas[0].names), numeric, partial(_stack, shards))
        for column in table.columns:
            full = table.full_name(column)
            loaders[full] = partial(_load, shards, column, full, schemas[0].field(column).type)
        names |= {table.full_name(column): found for column, found in _class_names(schemas[0]).items()}
        tables.append(table)
    return Source("parquet", loaders, tuple(tables), names)


def _schema(file: DataFile) -> pa.Schema:
    try:
        with pq.ParquetFile(file.path) as opened:
            return opened.schema_arrow
    except DAMAGE as error:
        raise _damaged(file) from error


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Names of classes from what the library `datasets` leaves in the schema; {} where there is none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {column: _names_of(feature) for column, feature in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {column: names for column, names in found.items() if names}


def _names_of(feature: Any) -> tuple[str, ...]:
    if isinstance(feature, list):
        feature = {"feature": feature[0]}
    if not isinstance(feature, dict):
        return ()
    names = feature.get("names") or (feature.get("feature") or {}).get("names") or ()
    return tuple(str(name) for name in names)


def _load(shards: list[DataFile], column: str, full: str, kind: pa.DataType) -> Raw:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_text(kind):
        return Cells("text", full, SpoolStore(_cells(shards, column, full)))
    if _is_bytes(kind) or _is_image(kind):
        return Cells("image", full, SpoolStore(_cells(shards, column, full)))
    if _is_list(kind) and _is_plain(kind):
        return Cells("list", full, SpoolStore(_cells(shards, column, full)))
    if _is_number(kind):
        parts = [np.asarray(part.to_numpy(zero_copy_only=False)) for part in _parts(shards, column, full)]
        return ArrayColumn(np.concatenate(parts) if parts else np.empty(0, np.int64))
    raise ModelpressError(
        "invalid_data",
        f"Column `{full}` holds {kind}, which is neither image, text, number nor a list of texts or numbers.",
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_plain(kind: Any) -> bool:
    """Whether JSON can say it: numbers, texts, and lists of these."""
    while _is_list(kind):
        kind = kind.value_type
    return _is_number(kind) or _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _stack(shards: list[DataFile], names: tuple[str, ...]) -> Column:
    def rows() -> Iterator[tuple[Any, ...]]:
        for shard in shards:
            try:
                with pq.ParquetFile(shard.path, buffer_size=BUFFER_BYTES, pre_buffer=False) as opened:
                    for batch in opened.iter_batches(BATCH_ROWS, columns=list(names)):
                        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
            except DAMAGE as error:
                raise _damaged(shard) from error

    return stack_numbers(rows(), names)


def _is_image(kind: pa.DataType) -> bool:
    fields = [kind.field(index) for index in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    return any(field.name == "bytes" and _is_bytes(field.type) for field in fields)


def _parts(shards: list[DataFile], column: str, full: str) -> Iterator[Any]:
    """The column in parts of few rows; raises `invalid_data` at a missing value."""
    row = 0
    for shard in shards:
        try:
            # Buffered, so that a row group of any size is read page by page.
            with pq.ParquetFile(shard.path, buffer_size=BUFFER_BYTES, pre_buffer=False) as opened:
                for batch in opened.iter_batches(BATCH_ROWS, columns=[column]):
                    part = batch.column(0)
                    if part.null_count:
                        missing = row + int(np.argmax(part.is_null().to_numpy(zero_copy_only=False)))
                        raise ModelpressError("invalid_data", f"Row {missing} of `{full}` has no value.")
                    yield part
                    row += len(part)
        except DAMAGE as error:
            raise _damaged(shard) from error


def _cells(shards: list[DataFile], column: str, full: str) -> Iterator[bytes]:
    row = 0
    for part in _parts(shards, column, full):
        for value in _values(part, row, full):
            cell = value.get("bytes") if isinstance(value, dict) else value
            if cell is None:
                raise ModelpressError(
                    "invalid_data",
                    f"Row {row} of `{full}` names a file but does not hold its bytes.",
                    hint="Save the data set with embedded images: `dataset.to_parquet` does it.",
                )
            packed = pack(cell)
            if len(packed) > MAX_CELL_BYTES:
                raise ModelpressError("invalid_data", f"Row {row} of `{full}` has {len(packed):,} bytes, too many.")
            yield packed
            row += 1


def _values(part: Any, row: int, full: str) -> list[Any]:
    """The values of a part that begins at `row`; raises `invalid_data` with the row of a text that is no UTF-8."""
    try:
        return list(part.to_pylist())
    except UnicodeDecodeError as error:
        for bad, value in enumerate(part, row):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise ModelpressError("invalid_data", f"Row {bad} of `{full}` is no UTF-8 text.") from error
        raise


def _damaged(file: DataFile) -> ModelpressError:
    return ModelpressError(
        "invalid_data",
        f"{file.name} is damaged, cut short, or no parquet file.",
        hint="Write it again and upload it again.",
    )
