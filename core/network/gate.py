"""The gate: what kind of file it is, by its content alone, before anything parses it deeply."""

from pathlib import Path
from typing import Literal

from core.errors import ModelpressError
from core.network.archive import Archive
from core.network.foreign import FROM_OTHER_TORCH, foreign_zip, nothing_known, refuse_foreign
from core.network.hf_folder import check_files, missing_config
from core.network.upload import Files, as_files
from core.network.zip_directory import open_zip

Format = Literal["onnx", "pt2", "hf"]

# Field numbers and wire types of ModelProto (onnx.proto): 0 varint, 2 length-delimited.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def check(source: Path | Files) -> Format:
    """Refuse all that can be refused by the looks of the files, at once and without loading torch."""
    files = as_files(source)
    found = recognise(files)
    if found == "pt2":
        Archive(next(iter(files.values()))).close()
    if found == "hf":
        check_files(files)
    return found


def recognise(source: Path | Files) -> Format:
    """The format of a model; raises `unknown_format` or `unsupported_version` and says how to convert it."""
    files = as_files(source)
    if len(files) == 1:
        return _recognise_file(*files.values())
    has_weights = any(name.endswith(".safetensors") for name in files)
    if "config.json" in files and has_weights:
        return "hf"
    if any(name.lower().endswith(".onnx") for name in files):
        return "onnx"
    if "config.json" in files:
        return "hf"
    if has_weights:
        raise missing_config(files)
    raise ModelpressError(
        "unknown_format",
        f"These {len(files)} files are no model that is known here.",
        hint="Upload one .onnx or .pt2 file, an .onnx file with the files of its data, or config.json and the "
        ".safetensors files of a Hugging Face model.",
    )


def _recognise_file(path: Path) -> Format:
    with path.open("rb") as file:
        head = file.read(512)
    if head[:2] == b"PK":
        return _recognise_zip(path)
    refuse_foreign(head, path.stat().st_size)
    if not _starts_like_onnx(head):
        raise nothing_known()
    return "onnx"


def _recognise_zip(path: Path) -> Format:
    with open_zip(path) as archive:
        entries = archive.infolist()
    if min((entry.header_offset for entry in entries), default=0):
        raise ModelpressError("corrupt_file", "The file is cut off: what is found is only an archive inside of it.")
    leaves = {entry.filename.rpartition("/")[2] for entry in entries}
    if "archive_format" in leaves:
        return "pt2"
    if "serialized_exported_program.json" in leaves:
        raise ModelpressError(
            "unsupported_version", "This .pt2 file was written by torch 2.8 or older.", hint=FROM_OTHER_TORCH
        )
    if any(name.endswith(".safetensors") for name in leaves):
        if "config.json" in leaves:
            return "hf"
        raise missing_config(leaves)
    if "config.json" in leaves and any(name.endswith(".bin") for name in leaves):
        return "hf"
    raise foreign_zip(leaves)


def _starts_like_onnx(head: bytes) -> bool:
    """Whether the first fields are those of a ModelProto: right numbers and types, as far as `head` reaches."""
    position, fields = 0, 0
    while position < len(head):
        key, position = _varint(head, position)
        if _MODEL_FIELDS.get(key >> 3) != key & 7:
            return False
        value, position = _varint(head, position)
        position += value if key & 7 == 2 else 0
        fields += 1
    return fields > 0


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            break
    return value, position
