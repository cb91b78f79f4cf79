"""Encodings out of JSON and tensors: the other half of `config` and `stored`."""

from collections.abc import Mapping
from typing import cast

from pydantic import JsonValue
from torch import Tensor

from core.network.encodings.affine_integer import AffineInteger
from core.network.encodings.dense import Dense
from core.network.encodings.encoding import Encoding


def restore(config: Mapping[str, JsonValue], tensors: Mapping[str, Tensor]) -> Encoding:
    """The encoding that wrote `config` and `tensors` (by suffix), exactly; both are trusted to be our own."""
    kind = cast("str", config["kind"])
    if kind == "dense":
        return Dense(tensors[""])
    if kind == "affine_integer":
        return AffineInteger.restore(dict(config), dict(tensors))
    raise ValueError(f"no encoding is called {kind}")
