"""The reader of Hugging Face models: `transformers` builds the network from its config, `torch.export` flattens it."""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.flat import FlatProgram, dominant_dtype, flatten_exported
from core.network.hf_folder import HfFolder
from core.network.hf_inputs import HfInput, inputs_of
from core.network.hf_kinds import TASKS, Kind, kind_of
from core.network.hf_pooling import OUTPUT, Pooling, read_pooling
from core.network.safetensors_header import DTYPES
from core.network.silence import silence

_PREFIX = "model."
_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OSError,
    ArithmeticError,
    StrictDataclassError,
)
# Configs state how many layers there are; no network that is known has more.
MAX_LAYERS = 2048


@final
class HfModule(nn.Module):
    """A model of transformers that takes tensors by position and gives one tensor."""

    def __init__(self, model: nn.Module, names: Sequence[str], output: str, pooling: Pooling | None = None) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.output = output
        self.pooling = pooling

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The logits, or the last hidden state, or one vector a text where the folder says how."""
        named = dict(zip(self.names, inputs, strict=True))
        found = cast("torch.Tensor", self.model(**named, return_dict=True)[self.output])
        return found if self.pooling is None else self.pooling.pool(found, named["attention_mask"])


@dataclass(frozen=True)
class HfModel:
    """A built model: its kind, the inputs that it takes, and the weights that the files do not have.

    `note` is what a user should know of what was left out.
    """

    module: HfModule
    kind: Kind
    inputs: tuple[HfInput, ...]
    missing: frozenset[str]
    note: str | None = None

    @property
    def output(self) -> str:
        """The name of the network's output."""
        return self.kind.output if self.module.pooling is None else OUTPUT


def build_hf(folder: HfFolder) -> HfModel:
    """Build the model of a folder in fp32; raises `unsupported_graph` where it cannot be."""
    _refuse_absurd(folder.config)
    with silence("transformers"):
        transformers = importlib.import_module("transformers")
        mappings = importlib.import_module("transformers.models.auto.modeling_auto")
        # A bar of progress on standard error would be taken for a warning.
        transformers.utils.logging.disable_progress_bar()
        kind = kind_of(folder.config, {task: getattr(mappings, name) for task, name in TASKS.items()})
        try:
            model, missing = _load(getattr(transformers, kind.architecture), folder)
            inputs = inputs_of(model, folder.config)
        except _ERRORS as error:
            raise ModelpressError("unsupported_graph", f"The model cannot be built: {_line(error)}") from error
    names = [entry.name for entry in inputs]
    pooling, note = _pooling(folder, kind, names)
    return HfModel(HfModule(model, names, kind.output, pooling).eval(), kind, inputs, missing, note)


def read_hf(model: HfModel, folder: HfFolder) -> FlatProgram:
    """The flat program of a built model; sizes that it does not fix stay free.

    Raises `unsupported_graph` where it cannot be traced, `corrupt_file` where it uses weights that are not there.
    """
    example = tuple(entry.example() for entry in model.inputs)
    with silence("transformers"):
        program = _trace(model, example)
        graph = flatten_exported(program, _PREFIX)
    graph.graph.eliminate_dead_code()
    _refuse_missing(graph, model.missing)
    placeholders = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder")][-len(example) :]
    return FlatProgram(
        graph=graph,
        inputs=tuple(_describe(entry, value) for entry, value in zip(model.inputs, placeholders, strict=True)),
        outputs=(model.output,),
        example=example,
        dtype=dominant_dtype((DTYPES[tensor.dtype][0], tensor.bytes) for tensor in folder.tensors.values()),
        producer=f"transformers, {model.kind.architecture}"[:100],
        metadata=_metadata(model.kind, folder),
    )


def _pooling(folder: HfFolder, kind: Kind, names: Sequence[str]) -> tuple[Pooling | None, str | None]:
    """What sentence-transformers does after the model, or a note that it is left out."""
    if folder.modules is None or kind.task != "feature-extraction" or "attention_mask" not in names:
        return None, None
    found = read_pooling(folder.modules, folder.settings)
    if isinstance(found, Pooling):
        return found, None
    return None, f"The pooling of modules.json is left out, since {found}; the output has one vector for each token."


def _load(architecture: Any, folder: HfFolder) -> tuple[nn.Module, frozenset[str]]:
    config = architecture.config_class.from_dict(dict(folder.config))
    config.use_cache = False
    options = {
        "config": config,
        "dtype": torch.float32,
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    try:
        model, found = architecture.from_pretrained(folder.path, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error) and "sdpa" not in str(error):
            raise
        model, found = architecture.from_pretrained(folder.path, attn_implementation="eager", **options)
    return model, frozenset(found["missing_keys"])


def _trace(model: HfModel, example: tuple[torch.Tensor, ...]) -> ExportedProgram:
    """Trace with all sizes free that the code leaves free, or with the batch only, or with none."""
    tries: list[tuple[dict[int, object], ...] | None] = [
        tuple({0: Dim.DYNAMIC, **dict.fromkeys(entry.free, Dim.AUTO)} for entry in model.inputs),
        tuple({0: Dim.DYNAMIC} for _ in model.inputs),
        None,
    ]
    failure: Exception | None = None
    for shapes in tries:
        try:
            with torch.no_grad():
                return torch.export.export(model.module, example, dynamic_shapes=shapes and (shapes,), strict=False)
        except _ERRORS as error:
            failure = failure or error
    raise ModelpressError("unsupported_graph", f"The model cannot be traced: {_line(failure)}") from failure


def _refuse_missing(graph: fx.GraphModule, missing: frozenset[str]) -> None:
    used = sorted(str(node.target) for node in graph.graph.find_nodes(op="get_attr") if node.target in missing)
    if used:
        raise ModelpressError(
            "corrupt_file",
            f"The files do not have the weight {used[0][:200]}, nor {len(used) - 1} others that the network uses.",
            hint="Upload all .safetensors files of the model.",
            node=used[0][:200],
        )


def _describe(entry: HfInput, value: torch.Tensor) -> TensorDescription:
    names = {0: "batch", **entry.free}
    shape = tuple(
        int(size) if is_concrete_int(size) else names.get(axis, f"size_{axis}") for axis, size in enumerate(value.shape)
    )
    return TensorDescription(name=entry.name, dtype=str(entry.dtype).removeprefix("torch."), shape=shape)


def _metadata(kind: Kind, folder: HfFolder) -> dict[str, str]:
    """What a user of the artifact wants to know of the model that it was."""
    metadata = {"task": kind.task, "architecture": kind.architecture}
    labels = folder.config.get("id2label")
    if isinstance(labels, dict) and "classification" in kind.task:
        metadata["id2label"] = json.dumps(labels)
    return metadata


def _refuse_absurd(config: object, depth: int = 0) -> None:
    if not isinstance(config, dict) or depth > 4:
        return
    for key, value in config.items():
        counts = value if isinstance(value, list) else [value]
        numbers = [count for count in counts if isinstance(count, int)]
        if ("layer" in key or "depth" in key or "blocks" in key) and any(number > MAX_LAYERS for number in numbers):
            raise ModelpressError("unsupported_graph", f"config.json states {key[:100]} = {str(value)[:100]}.")
        _refuse_absurd(value, depth + 1)


def _line(error: Exception | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
