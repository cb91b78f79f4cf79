"""A strict reader of `.pt2` archives: stored entries only, every name allowed, never more bytes than the file has."""

import json
import re
import stat
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO

from pydantic import JsonValue

from core.errors import ModelpressError
from core.network.pickle_names import check_saved_tensors
from core.network.zip_directory import open_zip

MAX_ENTRIES = 100_000
MAX_JSON_BYTES = 256 * 1024**2
_LOCAL_HEADER_BYTES = 30
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,255}")
# What torch.export.save of torch 2.13 writes, without the entries that hold pickles or code.
_ALLOWED = re.compile(
    r"archive_format|archive_version|byteorder|\.data/[\w.]+|models/[\w-]+\.json"
    r"|data/(weights|constants)/([\w-]+_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|data/sample_inputs/[\w-]+\.pt"
)


class Archive:
    """An open `.pt2` archive whose directory has been checked; `names` are relative to its root folder.

    Raises `corrupt_file` where the zip is damaged and `unsafe_file` where it is more than a plain archive of data.
    """

    def __init__(self, path: Path) -> None:
        self._zip = open_zip(path)
        try:
            entries = self._zip.infolist()
            _check_entries(entries, path.stat().st_size)
            self._root = entries[0].filename.partition("/")[0] + "/"
            self.names = frozenset(entry.filename.removeprefix(self._root) for entry in entries)
            _check_names(entries, self._root)
            self._check_samples()
        except ModelpressError:
            self._zip.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def read(self, name: str) -> bytes:
        """The bytes of one entry, its checksum compared."""
        if name not in self.names:
            raise ModelpressError("corrupt_file", f"The .pt2 archive has no {name}.")
        try:
            with self._open(name) as file:
                return file.read()
        except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError) as error:
            raise ModelpressError("corrupt_file", f"The entry {name} is damaged: {error}") from error

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self._zip.open(self._root + name)
        except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError) as error:
            raise ModelpressError("corrupt_file", f"The entry {name} is damaged: {error}") from error

    def _check_samples(self) -> None:
        """Refuse sample inputs that hold code. They are never opened here, but others would open the file."""
        for name in sorted(self.names):
            # An archive saved without samples, as those written here, has an empty entry, which holds nothing to run.
            if name.startswith("data/sample_inputs/") and self._zip.getinfo(self._root + name).file_size:
                with self._open(name) as file:
                    check_saved_tensors(file, name)

    def sample_bytes(self) -> int:
        """Bytes of the inputs that the network was exported with; whole storages, of which they may be a small part."""
        samples = [name for name in self.names if name.startswith("data/sample_inputs/")]
        return sum(self._zip.getinfo(self._root + name).file_size for name in samples)

    def superfluous_bytes(self) -> int:
        """Bytes that no network needs: the sample inputs and the remarks on each node."""
        return self.sample_bytes() + sum(
            len(self.read(name)) - len(json.dumps(_without_metadata(self.read_json(name))))
            for name in self.names
            if name.startswith("models/")
        )

    def read_json(self, name: str) -> JsonValue:
        """One entry as JSON."""
        data = self.read(name)
        if len(data) > MAX_JSON_BYTES:
            raise ModelpressError("unsupported_graph", f"The entry {name} has more than {MAX_JSON_BYTES} bytes.")
        try:
            value: JsonValue = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelpressError("corrupt_file", f"The entry {name} is no valid JSON: {error}") from error
        return value


def _without_metadata(program: JsonValue) -> JsonValue:
    """A program's JSON without the stack traces and module paths of its nodes."""
    if isinstance(program, list):
        return [_without_metadata(entry) for entry in program]
    if isinstance(program, dict):
        return {key: {} if key == "metadata" else _without_metadata(entry) for key, entry in program.items()}
    return program


def _check_entries(entries: list[zipfile.ZipInfo], file_bytes: int) -> None:
    if not entries or len(entries) > MAX_ENTRIES:
        raise ModelpressError("corrupt_file", f"The .pt2 archive has {len(entries)} entries.")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise _unsafe(entry, "is compressed, which torch never does")
        if entry.flag_bits & 1 or kind not in (0, stat.S_IFREG) or entry.is_dir():
            raise _unsafe(entry, "is no plain file")
        if entry.header_offset < end:
            raise _unsafe(entry, "overlaps another entry")
        end = entry.header_offset + _LOCAL_HEADER_BYTES + len(entry.filename.encode()) + entry.file_size
        if end > file_bytes:
            raise ModelpressError("corrupt_file", f"The entry {entry.filename} reaches past the end of the file.")


def _check_names(entries: list[zipfile.ZipInfo], root: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        relative = name.removeprefix(root)
        if name in seen:
            raise _unsafe(entry, "appears twice")
        seen.add(name)
        if not _NAME.fullmatch(name) or ".." in name.split("/") or not name.startswith(root):
            raise _unsafe(entry, "has a name that leaves the archive's folder")
        if not _ALLOWED.fullmatch(relative):
            raise _unsafe(entry, "is not among those that are read: it may hold code or a pickle")


def _unsafe(entry: zipfile.ZipInfo, reason: str) -> ModelpressError:
    return ModelpressError("unsafe_file", f"The entry {entry.filename[:200]} {reason}.", node=entry.filename[:200])
