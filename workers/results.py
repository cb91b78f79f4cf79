"""Brings the files of a job to the blobs: found where the runner said, but checked and hashed by us."""

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from uuid import uuid4

from core.messages import ArtifactFile, ArtifactMessage, CheckpointMessage
from core.services.attempts import StagedArtifact, StagedArtifactFile, StagedCheckpoint
from core.storage.blobs import Blobs
from workers.lines import Violation
from workers.staging import Run

_BLOCK = 1 << 20


def keep(out: Path, announced: Sequence[ArtifactMessage], blobs: Blobs) -> list[StagedArtifact]:
    """Store every announced file; raises `Violation` for one that is not a plain file below `out`.

    The runner must be gone, so that what is hashed is what is stored.
    """
    kinds = [artifact.artifact_kind for artifact in announced]
    if len(set(kinds)) != len(kinds):
        raise Violation("The runner announced two artifacts of one kind.")
    return [
        StagedArtifact(kind=artifact.artifact_kind, files=tuple(_keep(out, file, blobs) for file in artifact.files))
        for artifact in announced
    ]


def take(run: Run, announced: CheckpointMessage, blobs: Blobs) -> StagedCheckpoint:
    """Store the files of a checkpoint; raises as `keep` does, and what the store raises.

    The runner still lives and may write to them: what is hashed and stored is a copy that it cannot reach. Stored or
    not, they are removed from `out`, since the runner writes no other as long as they lie there.
    """
    files = []
    with ExitStack() as stack:
        for file in announced.files:
            stack.callback(_remove, run.out, file.path)
        for file in announced.files:
            copy = run.kept / uuid4().hex
            stack.callback(copy.unlink, missing_ok=True)
            digest, size = _copy(run.out, file, copy)
            blobs.put_file(copy, digest)
            files.append(StagedArtifactFile(filename=_label(file.filename), sha256=digest, bytes=size))
    return StagedCheckpoint(step=announced.step, finished=announced.finished, files=tuple(files))


def _copy(out: Path, file: ArtifactFile, to: Path) -> tuple[str, int]:
    """Copy a file; gives the digest and the size of the copy."""
    digest, size = sha256(), 0
    with ExitStack() as stack:
        descriptor = _open(out, file.path, stack)
        with open(descriptor, "rb", closefd=False) as content, to.open("xb") as copy:
            while block := content.read(_BLOCK):
                digest.update(block)
                copy.write(block)
                size += len(block)
    return digest.hexdigest(), size


def _remove(out: Path, path: str) -> None:
    """Remove a file, where there is one."""
    with suppress(OSError, Violation), ExitStack() as stack:
        os.unlink(path.rpartition("/")[2], dir_fd=_open_folder(out, path, stack))


def _keep(out: Path, file: ArtifactFile, blobs: Blobs) -> StagedArtifactFile:
    with ExitStack() as stack:
        descriptor = _open(out, file.path, stack)
        size = os.fstat(descriptor).st_size
        with open(descriptor, "rb", closefd=False) as content:
            sha256 = file_digest(content, "sha256").hexdigest()
        blobs.put_file(out / file.path, sha256)
    return StagedArtifactFile(filename=_label(file.filename), sha256=sha256, bytes=size)


def _open(out: Path, path: str, stack: ExitStack) -> int:
    """The file as a descriptor, reached step by step and never through a link."""
    folder = _open_folder(out, path, stack)
    # Without O_NONBLOCK a named pipe would keep us waiting.
    held = _step(path, path.rpartition("/")[2], os.O_NONBLOCK, held=folder, stack=stack)
    found = os.fstat(held)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise Violation(f"The runner announced {path!r}, which is not a plain file.")
    return held


def _open_folder(out: Path, path: str, stack: ExitStack) -> int:
    """The folder of a file as a descriptor."""
    *folders, name = path.split("/")
    if {".", ".."} & {*folders, name}:
        raise Violation(f"The runner announced the file {path!r}, which is not below its folder.")
    held = _step(path, out, os.O_DIRECTORY, held=None, stack=stack)
    for folder in folders:
        held = _step(path, folder, os.O_DIRECTORY, held=held, stack=stack)
    return held


def _step(path: str, part: str | Path, flags: int, *, held: int | None, stack: ExitStack) -> int:
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=held)
    except OSError as error:
        raise Violation(f"The runner announced {path!r}, which cannot be opened: {error.strerror}.") from error
    stack.callback(os.close, descriptor)
    return descriptor


def _label(filename: str) -> str:
    if "/" in filename or filename in ("", ".", "..") or not filename.isprintable():
        raise Violation(f"The runner gave a file the name {filename!r}.")
    return filename
