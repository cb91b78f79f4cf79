"""How weights may be stored, and what may be put on what: the table that recipes are checked against."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from core.specs.base import Asked

EncodingKind = Literal["dense", "masked", "half", "affine_integer", "codebook", "log2", "binary", "low_rank"]
KINDS: Final[tuple[EncodingKind, ...]] = get_args(EncodingKind)

# stacks: the new encoding stores what the old one kept, and both hold. replaces: the weights are encoded anew.
Effect = Literal["stacks", "replaces", "refused"]


class Follow(Asked):
    """What happens where one encoding is put on another, and why."""

    effect: Effect
    why: str


def _stacks(why: str) -> Follow:
    return Follow(effect="stacks", why=why)


def _replaces(why: str) -> Follow:
    return Follow(effect="replaces", why=why)


def _refused(why: str) -> Follow:
    return Follow(effect="refused", why=why)


_FIRST = _replaces("Dense weights take any encoding.")
_KEPT = _stacks("Zeros stay zeros; only the weights that the mask keeps are encoded.")
_MASK = _stacks("The weights that stay keep their encoding; those that go take no bits but the mask's.")
_ANEW = _replaces("The decoded weights are encoded anew; what the first encoding saved is not added to the second's.")
_FACTORS = _stacks("Both factors are encoded.")
_ZEROS_LOST = _refused("The factors of a masked weight have no zeros, so that the mask would be lost.")
_TWO_VALUES = _refused("A binary weight takes one bit; any other grid stores the same two values in more.")
_ROUNDED = _refused("The factors of a rounded weight are not rounded, so that the grid would be lost.")

_WIDER = _refused("The weights take fewer than 16 bits already.")

_ON_GRID: Final[Mapping[EncodingKind, Follow]] = {
    "masked": _MASK,
    "half": _WIDER,
    **dict.fromkeys(("affine_integer", "codebook", "log2", "binary"), _ANEW),
    "low_rank": _ROUNDED,
}

# By what is there, then by what is put on it. Nothing makes weights dense again but training without encodings.
FOLLOWS: Final[Mapping[EncodingKind, Mapping[EncodingKind, Follow]]] = {
    "dense": dict.fromkeys(("masked", "half", "affine_integer", "codebook", "log2", "binary", "low_rank"), _FIRST),
    "masked": {
        "masked": _replaces("The new mask keeps a part of what the old one kept."),
        **dict.fromkeys(("half", "affine_integer", "codebook", "log2", "binary"), _KEPT),
        "low_rank": _ZEROS_LOST,
    },
    "half": {**_ON_GRID, "half": _ANEW},
    "affine_integer": _ON_GRID,
    "codebook": _ON_GRID,
    "log2": _ON_GRID,
    "binary": {
        "masked": _MASK,
        "half": _WIDER,
        **dict.fromkeys(("affine_integer", "codebook", "log2"), _TWO_VALUES),
        "binary": _ANEW,
        "low_rank": _ROUNDED,
    },
    "low_rank": {
        **dict.fromkeys(("masked", "half", "affine_integer", "codebook", "log2", "binary"), _FACTORS),
        "low_rank": _ANEW,
    },
}


def follow(before: EncodingKind, after: EncodingKind) -> Follow:
    """What happens where `after` is put on `before`."""
    return FOLLOWS[before].get(after, _refused("Encoded weights become dense only by decoding them."))


def stack(kinds: Sequence[EncodingKind], after: EncodingKind) -> tuple[EncodingKind, ...] | Follow:
    """The kinds of a weight, outermost first, once `after` is put on it; the rule that refuses it, where one does.

    Low rank lies outermost, then the mask, then how numbers are stored: (masked, codebook) and affine integer give
    (masked, affine_integer).
    """
    made: list[EncodingKind] = [] if tuple(kinds) == ("dense",) else list(kinds)
    for kind in kinds:
        rule = follow(kind, after)
        if rule.effect == "refused":
            return rule
        if rule.effect == "replaces" and kind in made:
            made.remove(kind)
    order: tuple[EncodingKind, ...] = ("low_rank", "masked", "half", "affine_integer", "codebook", "log2", "binary")
    return tuple(sorted({*made, after}, key=order.index))
