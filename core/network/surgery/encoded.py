"""Which encodings can be cut along a dimension, and how."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from core.network.encodings import Elementwise, Encoding, Masked

# What lies beside the codes for each channel, where an encoding has an axis.
_ALONG_AXIS = ("scale", "zero_point")


def why_uncut(encoding: Encoding) -> str | None:
    """Why all positions of a weight that is stored so stay, or None where it can be cut."""
    inner = encoding.inner if isinstance(encoding, Masked) else encoding
    if not isinstance(inner, Elementwise):
        return f"stored as {encoding.name}, where no number belongs to one position"
    if any(side.dim() > 1 for _, side in inner.sides().values()):
        return f"stored as {encoding.name}, where several positions share what a cut would divide"
    return None


def cut_encoding(encoding: Encoding, kept: Mapping[int, Tensor]) -> Encoding:
    """The encoding with only these positions of each dimension; the values that stay are the same."""
    if isinstance(encoding, Masked):
        return Masked(_select(encoding.mask, kept), cast("Elementwise", cut_encoding(encoding.inner, kept)))
    inner = cast("Elementwise", encoding)
    config, sides = inner.config(), inner.stored_sides()
    axis = config.get("axis")
    if isinstance(axis, int) and axis in kept:
        sides |= {name: sides[name].index_select(0, kept[axis]) for name in _ALONG_AXIS if name in sides}
    return inner.rebuild(config, _select(inner.codes, kept), sides)


def _select(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    for dim, positions in kept.items():
        tensor = tensor.index_select(dim, positions)
    return tensor
