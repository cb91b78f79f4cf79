"""A Hugging Face model as it was uploaded: which files it has, checked and laid out for `transformers` to read."""

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from core.errors import ModelpressError
from core.network.hf_files import CONFIG, HfFiles, is_zip, listed
from core.network.safetensors_header import StoredTensor, parse_header
from core.network.upload import Files, as_files

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
MAX_JSON_BYTES = 16 * 1024**2
MAX_COMPANION_BYTES = 256 * 1024**2
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODULES = "modules.json"
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


@dataclass(frozen=True)
class HfFolder:
    """A folder of ours with `config.json` and the weights, whose headers have been checked; `tensors` by name.

    `modules` is what `modules.json` of sentence-transformers holds, and `settings` the config of each module by folder.
    """

    path: Path
    config: Mapping[str, JsonValue]
    tensors: Mapping[str, StoredTensor]
    bytes: int
    modules: JsonValue = None
    settings: Mapping[str, JsonValue] = field(default_factory=dict)


@contextmanager
def laid_out(source: Path | Files) -> Iterator[HfFolder]:
    """The files of a model below a temporary folder, under names of ours.

    Raises `unsafe_file`, `corrupt_file`, `unknown_format`, `external_data` or `unsupported_graph`.
    """
    files = as_files(source)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with listed(files) as found:
            config = read_config(found)
            tensors = _check_weights(found, config)
            (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
            _place_weights(found, tensors, folder, {} if is_zip(files) else files)
            modules = read_json(found, MODULES) if MODULES in found else None
            nested = [name for name in found if modules is not None and name.endswith(f"/{CONFIG}")]
            settings = {name.removesuffix(f"/{CONFIG}"): read_json(found, name) for name in nested}
        merged = {name: tensor for part in tensors.values() for name, tensor in part.items()}
        weight_bytes = sum(tensor.bytes for tensor in merged.values())
        yield HfFolder(folder, config, merged, weight_bytes, modules, settings)


def check_files(source: Path | Files) -> None:
    """Look at the config and the headers of the weights only; raises as `laid_out` does."""
    with listed(as_files(source)) as found:
        _check_weights(found, read_config(found))


def companions(source: Path | Files, folder: Path) -> Files:
    """Copies, in `folder`, of the tokenizer, preprocessor and config of an upload, by name."""
    files = as_files(source)
    if len(files) == 1 and not is_zip(files):
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    with listed(files) as found:
        kept = [name for name in found if name in COMPANIONS and found[name].size <= MAX_COMPANION_BYTES]
        for name in kept:
            found[name].copy(folder / name)
    return {name: folder / name for name in kept}


def read_config(files: HfFiles) -> dict[str, JsonValue]:
    """The checked `config.json`."""
    if CONFIG not in files:
        raise missing_config(files)
    config = read_json(files, CONFIG)
    if not isinstance(config, dict):
        raise ModelpressError("corrupt_file", f"{CONFIG} is no JSON object.")
    if "auto_map" in config:
        raise ModelpressError(
            "unsafe_file",
            "The model needs program code of its own (`auto_map` in config.json), which is never run here.",
            hint="Export it at home: `modelpress export`, or torch.onnx.export.",
        )
    if "quantization_config" in config:
        raise ModelpressError(
            "unsupported_graph",
            "The weights are quantized already.",
            hint="Upload the model that it was made from.",
        )
    return config


def read_json(files: HfFiles, name: str) -> JsonValue:
    """The contents of a JSON file; raises `corrupt_file`."""
    if files[name].size > MAX_JSON_BYTES:
        raise ModelpressError("corrupt_file", f"{name} has more than {MAX_JSON_BYTES:,} bytes.")
    try:
        with files[name].open() as stream:
            found: JsonValue = json.loads(stream.read(MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ModelpressError("corrupt_file", f"{name} is no valid JSON: {str(error)[:200]}") from error
    return found


def missing_config(names: Collection[str]) -> ModelpressError:
    """The error for weights without a `config.json` beside them."""
    if "adapter_config.json" in names:
        return ModelpressError(
            "unknown_format",
            "The files are an adapter, which is no model without the one that it was trained on.",
            hint="Merge them: `python -c \"from peft import AutoPeftModel as A; A.from_pretrained('FOLDER')"
            ".merge_and_unload().save_pretrained('merged')\"`, and upload the folder `merged`.",
        )
    return ModelpressError(
        "unknown_format",
        "There is no config.json beside the weights, which says what network they belong to.",
        hint="Upload config.json with them: `save_pretrained` writes both. Or export the network: `modelpress export`.",
    )


def _check_weights(files: HfFiles, config: Mapping[str, JsonValue]) -> dict[str, Mapping[str, StoredTensor]]:
    """The tensors of each file of weights that `transformers` would read, by the name of the file."""
    tensors: dict[str, Mapping[str, StoredTensor]] = {}
    seen: set[str] = set()
    for name in _find_weights(files, config):
        with files[name].open() as stream:
            tensors[name] = parse_header(stream, files[name].size, name).tensors
        if twice := seen & tensors[name].keys():
            raise ModelpressError(
                "corrupt_file", f"A tensor of {name[:200]} is in another file too: {min(twice)[:200]}."
            )
        seen |= tensors[name].keys()
    return tensors


def _find_weights(files: HfFiles, config: Mapping[str, JsonValue]) -> list[str]:
    """Which files hold the weights: `model.safetensors`, or its shards, or all there are."""
    found = sorted(name for name in files if name.endswith(".safetensors"))
    if not found:
        raise _no_safetensors(files, config)
    if WEIGHTS in files:
        return [WEIGHTS]
    wanted = _shards(files, found)
    if missing := sorted(wanted - set(found)):
        raise ModelpressError(
            "external_data",
            f"The weights are in {len(wanted)} files, of which {len(missing)} are missing, such as {missing[0][:200]}.",
            hint="Upload all .safetensors files of the model together.",
        )
    # Adapters and consolidated copies lie beside the weights that transformers reads.
    return sorted(wanted) or [name for name in found if name.startswith("model")] or found


def _shards(files: HfFiles, found: list[str]) -> set[str]:
    """All names that the weights have, by their index, or else by what each says of their number."""
    if INDEX in files:
        index = read_json(files, INDEX)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict):
            raise ModelpressError("corrupt_file", f"{INDEX} has no `weight_map`.")
        return {str(place) for place in places.values()}
    totals = {int(match[1]) for match in map(_SHARD.fullmatch, found) if match}
    return {f"model-{number:05}-of-{total:05}.safetensors" for total in totals for number in range(1, total + 1)}


def _no_safetensors(files: HfFiles, config: Mapping[str, JsonValue]) -> ModelpressError:
    stated = config.get("architectures")
    named = stated[0] if isinstance(stated, list) and stated else None
    architecture = named if isinstance(named, str) and _NAME.fullmatch(named) else "AutoModel"
    pickles = [name for name in files if name.endswith(_PICKLES)]
    what = f"The weights are pickles ({pickles[0][:100]}), which can run code when they are opened." if pickles else ""
    return ModelpressError(
        "unknown_format",
        what or "There are no .safetensors files beside config.json.",
        hint=f"`python -c \"from transformers import {architecture} as M; M.from_pretrained('FOLDER')"
        ".save_pretrained('FOLDER')\"` writes the weights as .safetensors; upload them with config.json.",
    )


def _place_weights(
    files: HfFiles, tensors: Mapping[str, Mapping[str, StoredTensor]], folder: Path, paths: Files
) -> None:
    """Put the weights into `folder` under names of ours, links where `paths` has them, with an index for several."""
    places: dict[str, JsonValue] = {}
    for number, (name, found) in enumerate(tensors.items()):
        own = WEIGHTS if len(tensors) == 1 else f"model-{number:05}.safetensors"
        if name in paths:
            (folder / own).symlink_to(paths[name].resolve())
        else:
            files[name].copy(folder / own)
        places.update(dict.fromkeys(found, own))
    if len(tensors) > 1:
        total = sum(tensor.bytes for part in tensors.values() for tensor in part.values())
        listing = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(listing), encoding="utf-8")
