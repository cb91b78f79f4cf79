"""What was uploaded as one model: its files under the names that the user gave them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from core.errors import ModelpressError
from core.messages import StagedFile

# File name, without folders, to where the bytes are; the name is a label and never used as a path.
Files = Mapping[str, Path]


def as_files(source: Path | Files) -> Files:
    """One file as an upload of one file."""
    return {source.name: source} if isinstance(source, Path) else source


def staged_by_name(staged: Sequence[StagedFile]) -> Files:
    """The staged files of a model; raises `invalid_request` where two have the same name.

    A file whose name another has that lies in fewer folders is told apart by its own: `1_Pooling/config.json`.
    """
    files: dict[str, Path] = {}
    paths = [file.filename.replace("\\", "/").split("/") for file in staged]
    for steps, file in sorted(zip(paths, staged, strict=True), key=lambda pair: len(pair[0])):
        name = steps[-1] if steps[-1] not in files else "/".join(steps[-2:])
        if name in files:
            raise ModelpressError("invalid_request", f"Two files of the model are named {name}.", pointer="/uploads")
        files[name] = Path(file.path)
    return files
