"""Keeping a download only when every byte is what its digest promises."""

import hashlib
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from core.resources.job import Artifact, ArtifactFile


class WrongBytesError(Exception):
    """A download is not what its digest promises; nothing was kept."""


def download(artifact: Artifact, chunks: Iterable[bytes], folder: Path) -> list[Path]:
    """Write one file, or unpack the zip of several, into `folder`; raises `WrongBytesError`.

    What is a zip by its kind, such as `bundle.zip`, gets a folder of its own: its files may be named as others are.
    """
    if artifact.kind.endswith(".zip"):
        folder /= Path(artifact.kind).stem
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".arriving-") as temporary:
        arrived = Path(temporary) / "content"
        with arrived.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        if len(artifact.files) == 1:
            return [_keep(arrived, artifact.files[0], folder)]
        return _unpack(artifact, arrived, folder)


def _keep(arrived: Path, promised: ArtifactFile, folder: Path) -> Path:
    with arrived.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != promised.sha256:
            raise WrongBytesError(f"{promised.filename} arrived damaged; fetch it again.")
    # The name is the server's word: only its last part is taken.
    return arrived.replace(folder / Path(promised.filename).name)


def _unpack(artifact: Artifact, archive: Path, folder: Path) -> list[Path]:
    """Take the files that the manifest names out of the zip, and nothing else."""
    kept = []
    try:
        with zipfile.ZipFile(archive) as opened:
            for number, file in enumerate(artifact.files):
                member = archive.with_name(str(number))
                member.write_bytes(opened.read(file.filename))
                kept.append(_keep(member, file, folder))
    except (zipfile.BadZipFile, KeyError) as error:
        raise WrongBytesError(f"{artifact.filename} arrived damaged; fetch it again.") from error
    return kept
