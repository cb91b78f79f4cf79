"""Files of models and data sets as workers get them."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.database.tables import Json


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """One blob, and the name that the user gave the file."""

    filename: str
    sha256: str
    bytes: int


def claimed_files(files: Sequence[Json]) -> tuple[ClaimedFile, ...]:
    """The files of a row."""
    return tuple(ClaimedFile(str(file["filename"]), str(file["sha256"]), int(file["bytes"])) for file in files)
