"""Which files are sent for what a user names: files as they are, of a folder those that make its model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import ModelpressError

# Settings, tokenizers and templates of Hugging Face models; their weights are chosen apart.
_SETTINGS = {".json", ".txt", ".model", ".jinja"}
_MODULE = re.compile(r"\d+_[A-Za-z]+")
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Sent:
    """A file, and the name that it is uploaded under: below a folder, its path in it."""

    path: Path
    name: str


def files_of(paths: Sequence[Path]) -> list[Sent]:
    """The files to upload as one model; raises `unknown_format` for a folder without one."""
    found: list[Sent] = []
    for path in paths:
        found += _model_of(path) if path.is_dir() else [Sent(path, path.name)]
    return found


def _model_of(folder: Path) -> list[Sent]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    names = {path.name for path in files}
    weights = [path for path in files if path.suffix == ".safetensors"]
    if "config.json" in names and weights:
        if _WEIGHTS in names:
            weights = [folder / _WEIGHTS]
        chosen = [path for path in files if path.suffix in _SETTINGS] + weights
        modules = [path for path in sorted(folder.glob("*/config.json")) if _MODULE.fullmatch(path.parent.name)]
        return [Sent(path, path.relative_to(folder).as_posix()) for path in [*chosen, *modules]]
    networks = [path for path in files if path.suffix.lower() in (".onnx", ".pt2")]
    if len(networks) == 1:
        # The data of an ONNX file may have any name.
        return [Sent(path, path.name) for path in (files if networks[0].suffix.lower() == ".onnx" else networks)]
    raise _refusal(folder, names, len(networks))


def _refusal(folder: Path, names: set[str], networks: int) -> ModelpressError:
    if networks:
        return ModelpressError(
            "unknown_format", f"The folder {folder} holds {networks} networks.", hint="Name the file that you mean."
        )
    if "config.json" in names:
        return ModelpressError(
            "unknown_format",
            f"The folder {folder} has config.json and no .safetensors weights.",
            hint=f'`python -c "import transformers as t; c = '
            f"t.AutoConfig.from_pretrained('{folder}'); getattr(t, c.architectures[0]).from_pretrained('{folder}')"
            f".save_pretrained('{folder}')\"` writes them.",
        )
    return ModelpressError(
        "unknown_format",
        f"The folder {folder} holds no model.",
        hint="A model is one .onnx file with its data, one .pt2 file, or config.json with .safetensors weights.",
    )
