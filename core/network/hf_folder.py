"""A Hugging Face model as it was uploaded: which files it has, checked and laid out for `transformers` to read."""

import json
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from core.errors import ModelpressError
from core.network.safetensors_header import StoredTensor, read_header
from core.network.upload import Files, as_files

CONFIG = "config.json"
# What tells how texts, images and sounds become the network's inputs; it travels with the artifact.
COMPANIONS = frozenset(
    {
        CONFIG,
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
        "chat_template.jinja",
        "preprocessor_config.json",
        "processor_config.json",
        "feature_extractor_config.json",
        "generation_config.json",
    }
)
MAX_CONFIG_BYTES = 4 * 1024**2
MAX_COMPANION_BYTES = 256 * 1024**2
MAX_ENTRIES = 10_000
# Weights hardly compress; more than this is a bomb.
_MAX_RATIO = 20
_CHUNK = 1 << 20
_TO_SAFETENSORS = (
    "In your own program call `AutoModel.from_pretrained(folder).save_pretrained(folder)` (the class that the model "
    "has), and upload config.json and the .safetensors files."
)


@dataclass(frozen=True)
class HfFolder:
    """A folder of ours with `config.json` and the weights, whose headers have been checked; `tensors` by name."""

    path: Path
    config: Mapping[str, JsonValue]
    tensors: Mapping[str, StoredTensor]
    bytes: int


@contextmanager
def laid_out(source: Path | Files) -> Iterator[HfFolder]:
    """The files of a model below a temporary folder, under names of ours.

    Raises `unsafe_file`, `corrupt_file`, `unknown_format` or `unsupported_graph`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = unpacked(as_files(source), Path(scratch) / "zip")
        config = read_config(files)
        folder = Path(scratch) / "model"
        folder.mkdir()
        tensors = _link_weights(files, folder)
        (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        yield HfFolder(folder, config, tensors, sum(tensor.bytes for tensor in tensors.values()))


def check_files(files: Files) -> None:
    """Look at the config and the headers of the weights only; raises as `laid_out` does."""
    read_config(files)
    for name, path in files.items():
        if name.endswith(".safetensors"):
            read_header(path, name)


def companions(source: Path | Files, folder: Path) -> Files:
    """Tokenizer, preprocessor and config of an upload, by name; those of a zip are unpacked into `folder`."""
    files = as_files(source)
    if len(files) == 1 and zipfile.is_zipfile(next(iter(files.values()))):
        files = unpacked(files, folder, only=COMPANIONS)
    if CONFIG not in files:
        return {}
    return {
        name: path for name, path in files.items() if name in COMPANIONS and path.stat().st_size <= MAX_COMPANION_BYTES
    }


def unpacked(files: Files, folder: Path, only: frozenset[str] | None = None) -> Files:
    """The files of a model, those of a zip in `folder`: the ones that lie beside its `config.json`."""
    if len(files) != 1:
        return files
    path = next(iter(files.values()))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _beside_config(archive.infolist())
            _refuse_bombs(entries, path.stat().st_size)
            kept = {name: entry for name, entry in entries.items() if only is None or name in only}
            for index, entry in enumerate(kept.values()):
                _unpack(archive, entry, folder / str(index))
            return {name: folder / str(index) for index, name in enumerate(kept)}
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, NotImplementedError) as error:
        raise ModelpressError("corrupt_file", f"The zip archive is damaged: {error}") from error


def read_config(files: Files) -> dict[str, JsonValue]:
    """The checked `config.json`."""
    path = files.get(CONFIG)
    if path is None or path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelpressError("corrupt_file", f"There is no {CONFIG}, or it has more than {MAX_CONFIG_BYTES} bytes.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelpressError("corrupt_file", f"{CONFIG} is no valid JSON: {str(error)[:200]}") from error
    if not isinstance(config, dict):
        raise ModelpressError("corrupt_file", f"{CONFIG} is no JSON object.")
    if "auto_map" in config or any(name.endswith(".py") for name in files):
        raise ModelpressError(
            "unsafe_file",
            "The model brings program code of its own, which is never run here.",
            hint="Export it at home: `modelpress export`, or torch.onnx.export.",
        )
    if "quantization_config" in config:
        raise ModelpressError(
            "unsupported_graph",
            "The weights are quantized already.",
            hint="Upload the model that it was made from.",
        )
    return config


def _beside_config(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The entries in the folder of the shallowest `config.json`, by name."""
    if len(infos) > MAX_ENTRIES:
        raise ModelpressError("unsafe_file", f"The zip archive has {len(infos)} entries.")
    configs = [entry.filename for entry in infos if entry.filename.rpartition("/")[2] == CONFIG]
    parent = min(configs, key=lambda name: (name.count("/"), name), default="").rpartition("/")[0]
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in infos:
        folder, _, name = entry.filename.rpartition("/")
        if folder != parent or not name:
            continue
        if name in entries or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ModelpressError("unsafe_file", f"The entry {name[:200]} is no plain file, or is there twice.")
        entries[name] = entry
    return entries


def _refuse_bombs(entries: Mapping[str, zipfile.ZipInfo], size: int) -> None:
    if sum(entry.file_size for entry in entries.values()) > _MAX_RATIO * size + _CHUNK:
        raise ModelpressError("unsafe_file", f"Unpacked, the zip archive is more than {_MAX_RATIO} times as large.")


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Unpack one entry; never more bytes than it declares, since zipfile stops there."""
    with archive.open(entry) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)


def _link_weights(files: Files, folder: Path) -> dict[str, StoredTensor]:
    """Put the weights into `folder` as links under names of ours, with an index of ours where they are several."""
    weights = {name: path for name, path in files.items() if name.endswith(".safetensors")}
    # Adapters and consolidated copies lie beside the weights that transformers reads.
    usual = {name: path for name, path in weights.items() if name.startswith("model")}
    weights = usual or weights
    if not weights:
        raise ModelpressError(
            "unknown_format", "There are no .safetensors files beside config.json.", hint=_TO_SAFETENSORS
        )
    tensors: dict[str, StoredTensor] = {}
    places: dict[str, JsonValue] = {}
    for index, (name, path) in enumerate(sorted(weights.items())):
        own = "model.safetensors" if len(weights) == 1 else f"model-{index:05}.safetensors"
        found = read_header(path, name)
        if tensors.keys() & found.keys():
            raise ModelpressError("corrupt_file", f"A tensor of {name[:200]} is in another file too.")
        tensors.update(found)
        places.update(dict.fromkeys(found, own))
        (folder / own).symlink_to(path.resolve())
    if len(weights) > 1:
        listing = {"metadata": {"total_size": sum(tensor.bytes for tensor in tensors.values())}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listing), encoding="utf-8")
    return tensors
