"""A network as two files: its graph as JSON, its numbers as safetensors; reading them can run nothing that they say."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.checkpoint_graph import StoredNode, check_path, read_nodes, write_nodes
from core.network.checkpoint_layers import StoredLayer, build_layer, describe_layer
from core.network.encodings import Encoding
from core.network.encodings.restore import restore
from core.network.flat import find
from core.network.network import Network

VERSION = 1
# What a damaged file can make torch, safetensors and our own reader raise.
_ERRORS = (
    SafetensorError,
    ValidationError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Place(_Stored):
    """A parameter or buffer at `path`; tied ones name the same tensor. `encoded` names the encoding that gives it."""

    path: str
    kind: Literal["parameter", "buffer"]
    tensor: str
    encoded: str | None = None
    trained: bool = False
    persistent: bool = True


class _Facts(_Stored):
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    sizes: dict[str, int]
    dtype: str
    batch: str
    batch_reason: str | None
    metadata: dict[str, str]


class _Description(_Stored):
    version: Literal[1]
    network: _Facts
    layers: tuple[StoredLayer, ...]
    tensors: tuple[_Place, ...]
    encodings: dict[str, dict[str, JsonValue]]
    nodes: tuple[StoredNode, ...]


def write_network(network: Network, description: Path, tensors: Path) -> None:
    """Write a network; raises `unsupported_graph` for a call or a layer that is not in the lists of this format."""
    told, numbers = pack_network(network)
    save_tensors(numbers, tensors)
    description.write_text(told, encoding="utf-8")


def pack_network(network: Network) -> tuple[str, dict[str, Tensor]]:
    """A network as JSON and its numbers by name; raises `unsupported_graph` as `write_network` does.

    Only the encoding of an encoded parameter is packed: the parameter is what it decodes to.
    """
    places = tuple(_places(network))
    described = _Description(
        version=VERSION,
        network=_Facts.model_validate({name: getattr(network, name) for name in _Facts.model_fields}),
        layers=tuple(describe_layer(path, layer) for path, layer in network.graph.named_modules() if path),
        tensors=places,
        encodings={path: encoding.config() for path, encoding in network.encodings.items()},
        nodes=write_nodes(network.graph.graph),
    )
    numbers = {place.tensor: find(network.graph, place.path) for place in places if place.encoded is None}
    for path, encoding in network.encodings.items():
        numbers.update({f"encoding/{path}/{name}": value for name, value in encoding.stored().items()})
    return json.dumps(described.model_dump(mode="json")), numbers


def read_network(description: Path, tensors: Path) -> Network:
    """The network that was written; raises `corrupt_file` for anything else."""
    with _corrupt():
        return _read(_Description.model_validate_json(description.read_bytes()), load_file(tensors))


def unpack_network(told: str, numbers: Mapping[str, Tensor]) -> Network:
    """The network that was packed, in memory of its own; raises `corrupt_file` for anything else."""
    with _corrupt():
        return _read(_Description.model_validate_json(told), numbers)


@contextmanager
def _corrupt() -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelpressError("corrupt_file", f"The checkpoint cannot be read: {line[:300]}") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, which takes no two that lie in one memory: only such ones are copied."""
    taken: set[int] = set()
    written = {}
    for name, value in tensors.items():
        plain = value.detach().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        taken.add(plain.untyped_storage().data_ptr())
        written[name] = plain
    save_file(written, path)


def _places(network: Network) -> Iterator[_Place]:
    """Every parameter and buffer by its path; those that are one object name the tensor of the first of them."""
    named = list(network.graph.named_parameters(remove_duplicate=False))
    encoded = {id(value): path for path, value in named if path in network.encodings}
    first: dict[int, str] = {}
    for path, value in named:
        tensor = first.setdefault(id(value), path)
        yield _Place(
            path=path,
            kind="parameter",
            tensor=tensor,
            encoded=encoded.get(id(value)),
            trained=value.requires_grad,
        )
    kept = network.graph.state_dict().keys()
    for path, buffer in network.graph.named_buffers(remove_duplicate=False):
        tensor = first.setdefault(id(buffer), path)
        yield _Place(path=path, kind="buffer", tensor=tensor, persistent=path in kept)


def _read(described: _Description, numbers: Mapping[str, Tensor]) -> Network:
    # Fresh memory for each: a mapped file begins tensors at odd addresses, which some kernels compute otherwise.
    numbers = {name: value.clone() for name, value in numbers.items()}
    encodings = {path: _restore(path, config, numbers) for path, config in described.encodings.items()}
    graph = fx.GraphModule(nn.Module(), fx.Graph())
    for layer in described.layers:
        check_path(layer.path)
        parent, _, leaf = layer.path.rpartition(".")
        graph.get_submodule(parent).add_module(leaf, build_layer(layer))
    _place_tensors(graph, described.tensors, numbers, encodings)
    graph.graph = read_nodes(described.nodes, graph)
    graph.graph.lint()
    graph.recompile()
    return Network(graph=graph.eval(), encodings=encodings, **dict(described.network))


def _restore(path: str, config: dict[str, JsonValue], numbers: dict[str, Tensor]) -> Encoding:
    prefix = f"encoding/{path}/"
    return restore(
        config, {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}
    )


def _place_tensors(
    graph: fx.GraphModule,
    places: tuple[_Place, ...],
    numbers: dict[str, Tensor],
    encodings: dict[str, Encoding],
) -> None:
    """Hang parameters and buffers into the layers; a weight that a layer was made with and that is not here is none."""
    made: dict[str, Tensor] = {}
    for place in places:
        if place.tensor not in made:
            value = numbers[place.tensor] if place.encoded is None else encodings[place.encoded].decode()
            made[place.tensor] = nn.Parameter(value, place.trained) if place.kind == "parameter" else value
        parent, _, leaf = place.path.rpartition(".")
        module, value = graph.get_submodule(parent), made[place.tensor]
        expected = getattr(module, leaf, None)
        if isinstance(expected, Tensor) and expected.shape != value.shape:
            raise ValueError(f"{place.path} has the shape {tuple(value.shape)}, its layer has {tuple(expected.shape)}")
        if isinstance(value, nn.Parameter):
            # By assignment: recurrent layers keep a list of their weights beside the parameters.
            setattr(module, leaf, value)
        else:
            module.register_buffer(leaf, value, persistent=place.persistent)
    _drop_missing(graph)


def _drop_missing(graph: fx.GraphModule) -> None:
    for module in graph.modules():
        for held in (module._parameters, module._buffers):
            for name, value in cast("dict[str, Tensor | None]", held).items():
                if value is not None and value.device == torch.device("meta"):
                    setattr(module, name, None)
