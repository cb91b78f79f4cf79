"""Brings the files of a finished job to the blobs: found where the runner said, but checked and hashed by us."""

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import file_digest
from pathlib import Path

from core.messages import ArtifactFile, ArtifactMessage
from core.services.attempts import StagedArtifact, StagedArtifactFile
from core.storage.blobs import Blobs
from workers.lines import Violation


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
    *folders, name = path.split("/")
    if {".", ".."} & {*folders, name}:
        raise Violation(f"The runner announced the file {path!r}, which is not below its folder.")

    def step(part: str | Path, flags: int, held: int | None) -> int:
        descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=held)
        stack.callback(os.close, descriptor)
        return descriptor

    try:
        held = step(out, os.O_DIRECTORY, None)
        for folder in folders:
            held = step(folder, os.O_DIRECTORY, held)
        # Without O_NONBLOCK a named pipe would keep us waiting.
        held = step(name, os.O_NONBLOCK, held)
    except OSError as error:
        raise Violation(f"The runner announced {path!r}, which cannot be opened: {error.strerror}.") from error
    found = os.fstat(held)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise Violation(f"The runner announced {path!r}, which is not a plain file.")
    return held


def _label(filename: str) -> str:
    if "/" in filename or filename in ("", ".", "..") or not filename.isprintable():
        raise Violation(f"The runner gave a file the name {filename!r}.")
    return filename
