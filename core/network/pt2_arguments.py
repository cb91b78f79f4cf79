"""The arguments of a `.pt2` file's calls: JSON unions become what `torch.fx` takes; no text is ever evaluated."""

import re
from collections.abc import Callable, Mapping
from typing import cast

import torch
from pydantic import JsonValue
from torch.fx.node import Argument

from core.errors import ModelpressError
from core.network.pt2_schema import Union
from core.network.pt2_weights import STORED_DTYPES

Values = Mapping[str, Argument]

# A network computes in fp32, whatever the upload computed in.
_WIDENED = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float32}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_NOT_FINITE = frozenset({"Infinity", "-Infinity", "NaN"})
_SYMBOL = re.compile(r"Symbol\('(\w{1,50})'(?:, \w{1,20}=\w{1,20})*\)|([A-Za-z_]\w{0,50})", re.ASCII)


def single(union: JsonValue) -> tuple[str, JsonValue]:
    """The one kind and body of a union."""
    if not isinstance(union, dict) or len(union) != 1:
        raise ModelpressError("corrupt_file", "An argument of the graph is not as torch 2.13 writes it.")
    return next(iter(union.items()))


def symbol(size: Union) -> str:
    """The name of a free size of an input; sizes that are computed from others are not read."""
    body = size.get("as_expr")
    text = body.get("expr_str") if isinstance(body, dict) else None
    found = _SYMBOL.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ModelpressError("unsupported_graph", "A size of an input is an expression of other sizes.")
    return found.group(1) or found.group(2)


def widened(dtype: torch.dtype) -> torch.dtype:
    """The type that a network computes in where the file has `dtype`."""
    return _WIDENED.get(dtype, dtype)


def decode(union: JsonValue, values: Values) -> Argument:
    """An argument of a call; names are looked up in `values`.

    Raises `corrupt_file` where a name is not known yet, `unsupported_graph` for kinds that are not read.
    """
    kind, body = single(union)
    if kind == "as_none":
        return None
    if kind in _PLAIN:
        return cast("Argument", _PLAIN[kind](body))
    if kind in _NAMED:
        return lookup(body, values)
    if kind in _LISTS:
        if not isinstance(body, list):
            raise ModelpressError("corrupt_file", f"An argument of kind {kind} is no list.")
        return [_LISTS[kind](entry, values) for entry in body]
    raise ModelpressError("unsupported_graph", f"An argument of kind {kind[:50]} is not read.")


def lookup(body: JsonValue, values: Values) -> Argument:
    """The value that `{"name": …}` or a symbolic argument (`{"as_name": …}`, `{"as_int": …}`) means."""
    if not isinstance(body, dict):
        raise ModelpressError("corrupt_file", "A name in the graph is not as torch 2.13 writes it.")
    for kind in ("as_int", "as_float", "as_bool"):
        if kind in body:
            return cast("Argument", _PLAIN[kind](body[kind]))
    name = body.get("name", body.get("as_name"))
    if not isinstance(name, str) or name not in values:
        raise ModelpressError("corrupt_file", f"The graph reads {str(name)[:200]}, which nothing makes.")
    return values[name]


def _integer(body: JsonValue) -> int:
    if not isinstance(body, int):
        raise ModelpressError("corrupt_file", "An argument that should be an integer is none.")
    return body


def _number(body: JsonValue) -> float:
    if isinstance(body, str) and body in _NOT_FINITE:
        return float(body)
    if not isinstance(body, (int, float)):
        raise ModelpressError("corrupt_file", "An argument that should be a number is none.")
    return float(body)


def _truth(body: JsonValue) -> bool:
    return bool(_integer(body))


def _text(body: JsonValue) -> str:
    if not isinstance(body, str):
        raise ModelpressError("corrupt_file", "An argument that should be a text is none.")
    return body


def _dtype(body: JsonValue) -> torch.dtype:
    dtype = STORED_DTYPES.get(_integer(body))
    if dtype is None:
        raise ModelpressError("unsupported_graph", "A call makes a type of tensor that is not read.")
    return widened(dtype)


def _optional(entry: JsonValue, values: Values) -> Argument:
    kind, body = single(entry)
    return None if kind == "as_none" else lookup(body, values)


_PLAIN: Mapping[str, Callable[[JsonValue], object]] = {
    "as_int": _integer,
    "as_float": _number,
    "as_bool": _truth,
    "as_string": _text,
    "as_scalar_type": _dtype,
    "as_memory_format": lambda body: _MEMORY_FORMATS.get(_integer(body), torch.preserve_format),
    "as_layout": lambda _: torch.strided,
    # Whatever the device was at home: here everything runs on the CPU.
    "as_device": lambda _: torch.device("cpu"),
}
_NAMED = frozenset({"as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"})
_LISTS: Mapping[str, Callable[[JsonValue, Values], Argument]] = {
    "as_tensors": lookup,
    "as_ints": lambda entry, _: _integer(entry),
    "as_floats": lambda entry, _: _number(entry),
    "as_bools": lambda entry, _: _truth(entry),
    "as_sym_ints": lookup,
    "as_sym_floats": lookup,
    "as_optional_tensors": _optional,
}
