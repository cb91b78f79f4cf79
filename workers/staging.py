"""Files of a run on this host: its inputs in a cache by SHA-256 that workers share, its folder, and the end of both."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import structlog

from core.services.files import ClaimedFile
from core.settings import settings
from core.storage.blobs import Blobs

_log = structlog.get_logger(__name__)
# A folder this young may be one whose owner has not locked it yet, in seconds.
_UNLOCKED_FOR = 60.0
_PARTIAL = ".part"
# A download this old has nobody left who writes it, in seconds.
_ABANDONED_AFTER = 86_400.0


@dataclass(frozen=True)
class Run:
    """The folders and files of one run on the host."""

    folder: Path
    inputs: tuple[Path, ...]
    measuring_lock: Path

    @property
    def out(self) -> Path:
        """Where the runner leaves its results."""
        return self.folder / "out"

    @property
    def tmp(self) -> Path:
        """The runner's temporary files."""
        return self.folder / "tmp"

    @property
    def shm(self) -> Path:
        """What the runner finds as /dev/shm: on disk, so that it counts as disk and not as hidden memory."""
        return self.folder / "shm"

    @property
    def kept(self) -> Path:
        """Copies of what the runner may still write to, out of its reach."""
        return self.folder / "kept"

    @property
    def request(self) -> Path:
        """What is asked of the runner, as JSON."""
        return self.folder / "request.json"


@contextmanager
def staged(sources: Sequence[ClaimedFile], blobs: Blobs) -> Iterator[Run]:
    """A fresh run with its inputs in place; what is left of it is removed at the end."""
    scratch = settings().scratch_dir.absolute()
    _remove_orphans(scratch / "runs")
    with ExitStack() as stack:
        inputs = tuple(stack.enter_context(_cached(source, scratch / "cache", blobs)) for source in sources)
        folder = stack.enter_context(_folder(scratch / "runs"))
        yield Run(folder, inputs, _measuring_lock(scratch))


def fetch_ahead(sources: Sequence[ClaimedFile], blobs: Blobs) -> None:
    """Bring files into the cache; raises `unavailable` for what cannot be had."""
    for source in sources:
        with _cached(source, settings().scratch_dir.absolute() / "cache", blobs):
            continue


@contextmanager
def _folder(runs: Path) -> Iterator[Path]:
    # The lock tells other workers that the owner lives; the kernel drops it when the owner dies.
    folder = runs / uuid4().hex
    folder.mkdir(mode=0o700, parents=True)
    try:
        with _locked(folder, fcntl.LOCK_EX):
            for name in ("out", "tmp", "shm", "kept"):
                (folder / name).mkdir(mode=0o700)
            yield folder
    finally:
        _remove(folder)


@contextmanager
def _cached(source: ClaimedFile, cache: Path, blobs: Blobs) -> Iterator[Path]:
    # The shared lock keeps the file from being evicted while it is used.
    path = cache / source.sha256
    with ExitStack() as stack:
        while not _hold(path, stack):
            _fetch(source.sha256, path, blobs.of_area(source.area))
        _evict(cache)
        yield path


def _hold(path: Path, stack: ExitStack) -> bool:
    try:
        descriptor = stack.enter_context(_locked(path, fcntl.LOCK_SH))
        # It may have been evicted between opening and locking.
        held = os.path.samestat(os.fstat(descriptor), path.stat())
        os.utime(path)
    except FileNotFoundError:
        return False
    return held


def _fetch(sha256: str, path: Path, blobs: Blobs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{uuid4().hex}{_PARTIAL}")
    try:
        blobs.fetch(sha256, partial)
        partial.chmod(0o444)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _evict(cache: Path) -> None:
    entries = []
    for path in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            if path.suffix != _PARTIAL or time.time() - found.st_mtime > _ABANDONED_AFTER:
                entries.append((found.st_mtime, found.st_size, path))
    excess = sum(size for _, size, _ in entries) - settings().cache_bytes
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            path.unlink()
            excess -= size


def _measuring_lock(scratch: Path) -> Path:
    path = scratch / "measuring.lock"
    path.touch()
    with contextlib.suppress(PermissionError):  # Another user's worker made it, and made it open to all.
        path.chmod(0o666)
    return path


def _remove_orphans(runs: Path) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    for folder in runs.iterdir():
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            if time.time() - folder.stat().st_mtime < _UNLOCKED_FOR:
                continue
            with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _remove(folder)


def _remove(folder: Path) -> None:
    # The system's own programs, because they follow no link and bear trees that are deeper than Python's stack. A
    # runner may also have closed its folders to their owner, which only root does not notice.
    for command in (("chmod", "-R", "u+rwx"), ("rm", "-rf")):
        program = shutil.which(command[0], path=os.defpath) or command[0]
        done = subprocess.run([program, *command[1:], "--", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        _log.warning("run_not_removed", folder=str(folder), error=done.stderr.decode(errors="replace")[-500:])


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)
