"""The calls of a graph as plain data, and back; a call is one of a list, and no argument is evaluated."""

import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, JsonValue
from torch import fx, nn
from torch.fx.node import Argument

from core.errors import ModelpressError
from core.network.aten_operators import resolve

_GETITEM = "_operator.getitem"
_ATEN = "torch.ops.aten."
# The steps of a path: `block.0.conv`.
_PATH = re.compile(r"\w+(\.\w+)*")
# What torch calls its own kinds of values, by the word that stands for them in the file.
_KINDS: Mapping[str, tuple[type, Callable[[str], object]]] = {
    "dtype": (torch.dtype, lambda name: _member(name, torch.dtype)),
    "layout": (torch.layout, lambda name: _member(name, torch.layout)),
    "memory_format": (torch.memory_format, lambda name: _member(name, torch.memory_format)),
    "device": (torch.device, torch.device),
}


class StoredNode(BaseModel):
    """One node of an fx graph; `rank` is that of its value where it is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    op: Literal["placeholder", "get_attr", "call_module", "call_function", "output"]
    name: str
    target: str
    args: JsonValue
    kwargs: dict[str, JsonValue] = {}
    rank: int | None = None


def write_nodes(graph: fx.Graph) -> tuple[StoredNode, ...]:
    """The nodes in their order; raises `unsupported_graph` for a call that is not in the list."""
    return tuple(_write_node(node) for node in graph.nodes)


def read_nodes(nodes: tuple[StoredNode, ...], owner: nn.Module) -> fx.Graph:
    """The graph of the nodes, with their names; raises `ValueError` or `KeyError` for what is not in the list."""
    graph = fx.Graph(owner if isinstance(owner, fx.GraphModule) else None)
    known: dict[str, fx.Node] = {}
    for stored in nodes:
        _check_names(stored)
        target = _function(stored.target) if stored.op == "call_function" else stored.target
        args = cast("tuple[Argument, ...]", _decode(stored.args, known))
        kwargs = {name: _decode(value, known) for name, value in stored.kwargs.items()}
        node = graph.create_node(stored.op, target, args, kwargs, stored.name)
        if node.name != stored.name:
            raise ValueError(f"two nodes have the name {stored.name[:200]}")
        if stored.rank is not None:
            node.meta["rank"] = stored.rank
        known[stored.name] = node
    return graph


def check_path(path: str) -> None:
    """Raises `ValueError` for what is no dotted path: torch makes Python of a graph, and paths and names go into it."""
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"there is no path {path[:100]!r}")


def _check_names(stored: StoredNode) -> None:
    if stored.op in {"get_attr", "call_module"}:
        check_path(stored.target)
    names = [*stored.kwargs, *([stored.target] if stored.op == "placeholder" else [])]
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"there is no name {name[:100]!r}")


def _write_node(node: fx.Node) -> StoredNode:
    return StoredNode(
        op=cast("Literal['call_function']", node.op),
        name=node.name,
        target=_name(node.target) if node.op == "call_function" else str(node.target),
        args=_encode(node.args),
        kwargs={name: _encode(value) for name, value in node.kwargs.items()},
        rank=node.meta.get("rank"),
    )


def _name(target: object) -> str:
    """The name of a function of the list."""
    if target is operator.getitem:
        return _GETITEM
    name = f"torch.ops.{target}" if isinstance(target, torch._ops.OpOverload) else _size_operator(target)
    if _find(name) is not target:
        raise ModelpressError("unsupported_graph", f"A checkpoint cannot hold a call of {target}.")
    return name


def _size_operator(target: object) -> str:
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    return f"{module}.{name}"


def _function(name: str) -> Callable[..., object]:
    found = _find(name)
    if found is None:
        raise ValueError(f"there is no call {name[:100]!r}")
    return found


def _find(name: str) -> Callable[..., object] | None:
    """What a name means: a call that an upload may make, or another of ATen that computes on a tensor.

    Readers make more calls than an upload names, none of which opens a file: those read no tensor, though one may
    write into one.
    """
    if name == _GETITEM:
        return operator.getitem
    if (listed := resolve(name)) is not None or not name.startswith(_ATEN):
        return listed
    packet, _, overload = name.removeprefix(_ATEN).partition(".")
    found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if not overload or not isinstance(found, torch._ops.OpOverload):
        return None
    tensors = any("Tensor" in str(argument.type) for argument in found._schema.arguments if not argument.is_out)
    return found if tensors else None


def _encode(value: object) -> JsonValue:
    if isinstance(value, list):
        return [_encode(entry) for entry in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    kind, body = _describe(value)
    return {kind: body}


def _describe(value: object) -> tuple[str, JsonValue]:
    """What JSON has no value for, as its kind and what is said of it."""
    match value:
        case fx.Node():
            return "node", value.name
        case float():
            return "float", str(value)
        case tuple():
            return "tuple", [_encode(entry) for entry in value]
        case slice():
            return "slice", [_encode(part) for part in (value.start, value.stop, value.step)]
    for kind, (known, _) in _KINDS.items():
        if isinstance(value, known):
            return kind, str(value)
    raise ModelpressError("unsupported_graph", f"A checkpoint cannot hold the argument {str(value)[:100]!r}.")


def _decode(value: JsonValue, known: Mapping[str, fx.Node]) -> Argument:
    if isinstance(value, list):
        return [_decode(entry, known) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, body),) = value.items()
    if isinstance(body, list) and kind in _SEQUENCES:
        return _SEQUENCES[kind]([_decode(entry, known) for entry in body])
    if not isinstance(body, str):
        raise TypeError(f"an argument of kind {kind[:50]!r} is not as it is written")
    if kind == "node":
        return known[body]
    return cast("Argument", float(body) if kind == "float" else _KINDS[kind][1](body))


_SEQUENCES: Mapping[str, Callable[[list[Argument]], Argument]] = {
    "tuple": tuple,
    "slice": lambda parts: slice(*parts),
}


def _member(name: str, kind: type) -> object:
    """`torch.float32` and the like."""
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, kind):
        raise TypeError(f"there is no {name[:50]!r}")
    return found
