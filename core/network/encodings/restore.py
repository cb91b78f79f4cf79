"""Encodings out of JSON and tensors: the other half of `config` and `stored`."""

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from pydantic import JsonValue
from torch import Tensor

from core.network.encodings.affine_integer import AffineInteger
from core.network.encodings.codebook import Codebook
from core.network.encodings.dense import Dense
from core.network.encodings.elementwise import Elementwise, unpack
from core.network.encodings.encoding import Encoding
from core.network.encodings.half import Half
from core.network.encodings.levels import Levels
from core.network.encodings.low_rank import LowRank
from core.network.encodings.masked import Masked, restore_mask

_ELEMENTWISE: Final[dict[str, type[Elementwise]]] = {
    "dense": Dense,
    "half": Half,
    "affine_integer": AffineInteger,
    "codebook": Codebook,
    "log2": Levels,
    "binary": Levels,
}


def restore(config: Mapping[str, JsonValue], tensors: Mapping[str, Tensor]) -> Encoding:
    """The encoding that wrote `config` and `tensors` (by suffix), exactly; both are trusted to be our own."""
    facts = cast("dict[str, Any]", config)
    if facts["kind"] == "low_rank":
        left, right = (restore(facts[side], _below(side, tensors)) for side in ("left", "right"))
        return LowRank(left, right, tuple(facts["shape"]))
    if facts["kind"] == "masked":
        return _restore_masked(facts, tensors)
    codes = unpack(tensors[""], facts["bits"], tuple(facts["shape"]))
    return _ELEMENTWISE[facts["kind"]].rebuild(facts, codes, tensors)


def _restore_masked(facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> Masked:
    inner = facts["inner"]
    mask = restore_mask(facts, tensors["positions"])
    kept = unpack(tensors[""], inner["bits"], (int(mask.sum()),))
    codes = torch.zeros(mask.shape, dtype=kept.dtype).masked_scatter(mask, kept)
    return Masked(mask, _ELEMENTWISE[inner["kind"]].rebuild(inner, codes, tensors))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose suffix begins with `prefix`, by what follows."""
    return {
        suffix[len(prefix) :].removeprefix("."): tensor
        for suffix, tensor in tensors.items()
        if suffix == prefix or suffix.startswith(f"{prefix}.")
    }
