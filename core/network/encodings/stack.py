"""Puts one encoding on another, as the table of compositions says."""

from core.network.encodings.elementwise import Elementwise
from core.network.encodings.encoding import Encoding
from core.network.encodings.masked import Masked
from core.specs.composition import Follow, stack


def put_on(before: Encoding, made: Encoding) -> Encoding:
    """What a weight in the encoding `before` has once a method made `made` of it.

    A mask stays over what is made under it; a new mask lies over the numbers that are there, or over its own where
    these are floats, and keeps nothing that the old one left out. Raises ValueError with the reason where the table
    refuses it, and for what stacks on a low rank: its factors are encoded one by one, each as a weight of its own.
    """
    found = stack(before.kinds, made.kind)
    if isinstance(found, Follow):
        raise ValueError(found.why)  # noqa: TRY004  the types are right, their order is not
    if before.kind == "low_rank" and made.kind != "low_rank":
        raise ValueError("The factors of a low rank are encoded one by one, not their product.")
    if isinstance(made, Masked):
        inner = before.inner if isinstance(before, Masked) else before
        mask = made.mask & before.mask if isinstance(before, Masked) else made.mask
        if before.kind == "dense" or not isinstance(inner, Elementwise):
            return made
        return Masked(mask, inner if made.inner.kind == "dense" and inner.kind != "dense" else made.inner)
    if isinstance(before, Masked) and isinstance(made, Elementwise):
        return Masked(before.mask, made)
    return made
