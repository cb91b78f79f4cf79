"""Which encodings can be cut along a dimension, and how."""

from torch import Tensor

from core.network.encodings import Dense, Encoding


def why_uncut(encoding: Encoding) -> str | None:
    """Why positions of a weight that is stored so all stay, or None where it can be cut."""
    if isinstance(encoding, Dense):
        return None
    return f"stored as {encoding.name}, which is not cut"


def cut_encoding(encoding: Encoding, cut: Tensor) -> Encoding:
    """The encoding of a weight of which only some positions are left; `cut` is the decoded weight after the cut."""
    if isinstance(encoding, Dense):
        return Dense(cut)
    raise TypeError(f"{encoding.name} is not cut")
