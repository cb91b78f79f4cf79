"""The files of a Hugging Face model, whether they were uploaded one by one or in a zip archive."""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from core.errors import ModelpressError
from core.network.upload import Files
from core.network.zip_directory import DAMAGE, open_zip

CONFIG = "config.json"
MAX_ENTRIES = 10_000
# Weights hardly compress; more than this is a bomb.
_MAX_RATIO = 20
_CHUNK = 1 << 20
# Modules of sentence-transformers have their settings in folders such as `1_Pooling`.
_MODULE_CONFIG = re.compile(r"\d+_[A-Za-z]+/config\.json")


@dataclass(frozen=True)
class HfFile:
    """One file: how many bytes it has, and a stream of them."""

    size: int
    open: Callable[[], IO[bytes]]

    def copy(self, path: Path) -> None:
        """Write the bytes to `path`; never more than `size`, since zipfile stops there."""
        with self.open() as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)


HfFiles = Mapping[str, HfFile]


@contextmanager
def listed(files: Files) -> Iterator[HfFiles]:
    """The files by name, of a zip those that lie beside its `config.json`.

    Raises `corrupt_file` where the zip is damaged, also later while its files are read, and `unsafe_file` for a bomb.
    """
    if not is_zip(files):
        yield {name: HfFile(path.stat().st_size, partial(_open, path)) for name, path in files.items()}
        return
    path = next(iter(files.values()))
    with open_zip(path) as archive:
        entries = _beside_config(archive.infolist())
        _refuse_bombs(entries, path.stat().st_size)
        try:
            yield {name: HfFile(entry.file_size, partial(archive.open, entry)) for name, entry in entries.items()}
        except (*DAMAGE, RuntimeError, zlib.error) as error:
            raise ModelpressError("corrupt_file", f"The zip archive is damaged: {str(error)[:200]}") from error


def is_zip(files: Files) -> bool:
    """Whether a model is one file, and that a zip archive."""
    return len(files) == 1 and zipfile.is_zipfile(next(iter(files.values())))


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _beside_config(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The entries in the folder of the shallowest `config.json`, by name."""
    if len(infos) > MAX_ENTRIES:
        raise ModelpressError("unsafe_file", f"The zip archive has {len(infos)} entries.")
    configs = [entry.filename for entry in infos if entry.filename.rpartition("/")[2] == CONFIG]
    parent = min(configs, key=lambda name: (name.count("/"), name), default="").removesuffix(CONFIG)
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in infos:
        name = entry.filename.removeprefix(parent)
        if not entry.filename.startswith(parent) or not name or ("/" in name and not _MODULE_CONFIG.fullmatch(name)):
            continue
        if name in entries or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ModelpressError("unsafe_file", f"The entry {name[:200]} is no plain file, or is there twice.")
        entries[name] = entry
    return entries


def _refuse_bombs(entries: Mapping[str, zipfile.ZipInfo], size: int) -> None:
    if sum(entry.file_size for entry in entries.values()) > _MAX_RATIO * size + _CHUNK:
        raise ModelpressError("unsafe_file", f"Unpacked, the zip archive is more than {_MAX_RATIO} times as large.")
