"""Images in a zip, one folder a class, below folders named after the splits where there are such."""

import zipfile
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from core.data.cells import DAMAGE, Cells, ListStore, ZipStore
from core.data.images import KINDS, SUFFIXES
from core.data.source import SPLIT_WORDS, Loader, Source, Table
from core.description import SplitName
from core.errors import ModelpressError

MAX_ENTRIES = 500_000
MAX_ARCHIVE_BYTES_PER_BYTE = 200
SMALL_BYTES = 2**30
ENCRYPTED_FLAG = 0x1


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the zip; `label` is the name of its class, None when it is in no folder."""

    info: zipfile.ZipInfo
    split: SplitName | None
    label: str | None


def open_folder(path: Path) -> Source:
    """The columns `image` and `label` of every split; nothing is unpacked yet. Raises `invalid_data`."""
    infos, others = _list(path)
    groups: dict[SplitName | None, list[Picture]] = defaultdict(list)
    for picture in _place(infos):
        groups[picture.split].append(picture)
    loaders: dict[str, Loader] = {}
    tables = []
    for split, pictures in groups.items():
        labels = [picture.label for picture in pictures]
        table = Table(split, ("image",) if labels[0] is None else ("image", "label"))
        image, label = table.full_name("image"), table.full_name("label")
        loaders[image] = partial(_load_images, path, image, tuple(picture.info for picture in pictures))
        if labels[0] is not None:
            loaders[label] = partial(Cells, "text", label, ListStore([str(name).encode() for name in labels]))
        tables.append(table)
    notes = (f"{others:,} files in the zip are no {KINDS} images and were left out.",) if others else ()
    return Source("images", loaders, tuple(tables), notes=notes)


def _load_images(path: Path, name: str, infos: tuple[zipfile.ZipInfo, ...]) -> Cells:
    return Cells("image", name, ZipStore(path, infos))


def _list(path: Path) -> tuple[list[zipfile.ZipInfo], int]:
    """The images of the zip by name, and how many other files there are."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except DAMAGE as error:
        raise ModelpressError(
            "invalid_data", "The zip is damaged or cut short.", hint="Make the zip again and upload it again."
        ) from error
    if len(infos) > MAX_ENTRIES:
        raise ModelpressError("invalid_data", f"The zip has {len(infos):,} files; {MAX_ENTRIES:,} are allowed.")
    infos = [info for info in infos if not _is_hidden(info.filename)]
    images = sorted((info for info in infos if info.filename.lower().endswith(SUFFIXES)), key=lambda i: i.filename)
    if not images:
        raise ModelpressError(
            "invalid_data",
            f"The zip holds neither arrays (.npy) nor {KINDS} images.",
            hint="Zip one folder a class; upload parquet, CSV, JSONL and text files as they are, without a zip.",
        )
    _refuse_bombs(images, path.stat().st_size)
    return images, len(infos) - len(images)


def _refuse_bombs(images: list[zipfile.ZipInfo], size: int) -> None:
    if len({info.filename for info in images}) != len(images):
        raise ModelpressError("invalid_data", "The zip has two files of the same name.")
    if any(info.flag_bits & ENCRYPTED_FLAG for info in images):
        raise ModelpressError("invalid_data", "The zip is encrypted.")
    unpacked = sum(info.file_size for info in images)
    if unpacked > max(size * MAX_ARCHIVE_BYTES_PER_BYTE, SMALL_BYTES):
        raise ModelpressError("invalid_data", f"The zip of {size:,} bytes unpacks to {unpacked:,}, which is no data.")


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _shared(folders: list[tuple[str, ...]]) -> int:
    """How many folders all paths begin with that are neither a split nor a class."""
    depth = 0
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1 or names[0].lower() in SPLIT_WORDS:
            return depth
        depth += 1
    return depth - 1 if folders and all(len(folder) == depth for folder in folders) and depth else depth


def _place(infos: list[zipfile.ZipInfo]) -> list[Picture]:
    """Split and class of each image by its folders; the one folder that all are in says nothing."""
    folders = [PurePosixPath(info.filename).parts[:-1] for info in infos]
    shared = _shared(folders)
    parts = [folder[shared:] for folder in folders]
    named = all(folder and folder[0].lower() in SPLIT_WORDS for folder in parts)
    pictures = []
    for info, folder in zip(infos, parts, strict=True):
        split = SPLIT_WORDS[folder[0].lower()] if named else None
        rest = folder[1:] if named else folder
        pictures.append(Picture(info, split, rest[0] if rest else None))
    loose = [picture for picture in pictures if picture.label is None]
    if loose and len(loose) != len(pictures):
        raise ModelpressError(
            "invalid_data", f"`{loose[0].info.filename}` is in no class folder, while other images are in one."
        )
    return pictures
