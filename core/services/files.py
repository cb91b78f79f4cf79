"""Files of models and data sets as workers get them."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.database.tables import Json
from core.storage.blobs import Area


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """One blob, and the name that the user gave the file."""

    filename: str
    sha256: str
    bytes: int
    area: Area = "blobs"


def claimed_files(files: Sequence[Json], area: Area = "blobs") -> tuple[ClaimedFile, ...]:
    """The files of a row."""
    return tuple(ClaimedFile(str(file["filename"]), str(file["sha256"]), int(file["bytes"]), area) for file in files)
