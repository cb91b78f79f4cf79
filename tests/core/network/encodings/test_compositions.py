"""The table of what may be put on what, and the code that does it."""

import pytest
import torch

from core.network.encodings import (
    AffineInteger,
    Codebook,
    Dense,
    Encoding,
    Half,
    Levels,
    LowRank,
    Masked,
    packed_grid,
    put_on,
)
from core.specs.composition import FOLLOWS, KINDS, EncodingKind, Follow, follow, stack
from tests.core.network.encodings.cases import CASES, affine, asymmetric, book_of, codebook, mask_of, sample

WEIGHT = sample((8, 6))
MAKES: dict[EncodingKind, Encoding] = {
    "masked": Masked(mask_of(WEIGHT, 0.4), Dense(WEIGHT)),
    "affine_integer": affine(4)(WEIGHT),
    "codebook": codebook(8)(WEIGHT),
    "log2": Levels.log2(WEIGHT, bits=4, axis=0),
    "half": Half.of(WEIGHT, dtype="float16"),
    "binary": Levels.binary(WEIGHT, axis=0),
    "low_rank": LowRank.of(WEIGHT, 2),
}


def test_every_pair_has_a_rule_with_a_reason() -> None:
    for before in KINDS:
        for after in KINDS:
            rule = follow(before, after)
            assert rule.why.endswith(".")
            assert rule.effect == "refused" if after == "dense" else after in FOLLOWS[before]


def test_kinds_of_stacks() -> None:
    assert stack(("dense",), "masked") == ("masked",)
    assert stack(("masked",), "codebook") == ("masked", "codebook")
    assert stack(("codebook",), "masked") == ("masked", "codebook")
    assert stack(("masked", "codebook"), "affine_integer") == ("masked", "affine_integer")
    assert stack(("masked", "codebook"), "masked") == ("masked", "codebook")
    assert stack(("low_rank", "affine_integer"), "codebook") == ("low_rank", "codebook")
    refused = stack(("masked", "binary"), "codebook")
    assert isinstance(refused, Follow)
    assert refused.effect == "refused"


@pytest.mark.parametrize("before", [kind for kind in KINDS if kind not in ("dense", "low_rank")])
@pytest.mark.parametrize("after", [kind for kind in KINDS if kind != "dense"])
def test_the_code_does_what_the_table_says(before: EncodingKind, after: EncodingKind) -> None:
    kinds = stack((before,), after)
    if isinstance(kinds, Follow):
        with pytest.raises(ValueError, match=kinds.why):
            put_on(MAKES[before], MAKES[after])
        return
    made = put_on(MAKES[before], MAKES[after])
    assert made.kinds == kinds
    if before == "masked":
        assert not made.decode()[~mask_of(WEIGHT, 0.4)].any()


def test_a_new_mask_keeps_no_more_than_the_old_one() -> None:
    old = Masked(mask_of(WEIGHT, 0.5), codebook(8)(WEIGHT))
    new = Masked(torch.arange(48).reshape(8, 6) % 2 == 0, Dense(WEIGHT))
    made = put_on(old, new)
    assert isinstance(made, Masked)
    assert torch.equal(made.mask, old.mask & new.mask)
    assert isinstance(made.inner, Codebook)


def test_the_product_of_a_low_rank_is_not_encoded_in_its_place() -> None:
    for after in ("masked", "codebook"):
        with pytest.raises(ValueError, match="one by one"):
            put_on(MAKES["low_rank"], MAKES[after])
    assert put_on(MAKES["low_rank"], LowRank.of(WEIGHT, 1)).kinds == ("low_rank",)


def test_a_mask_needs_a_code_that_is_zero() -> None:
    with pytest.raises(ValueError, match="no zero"):
        Masked(mask_of(WEIGHT, 0.5), asymmetric(4)(WEIGHT))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="groups of 4"):
        AffineInteger.of(WEIGHT, grid=packed_grid(4, group=4), axis=0)
    with pytest.raises(ValueError, match="3 groups"):
        Codebook.of(WEIGHT, torch.zeros(3, 4)[:, :2].repeat(1, 2)[:3])
    with pytest.raises(ValueError, match="256 values"):
        Codebook.of(WEIGHT, book_of(WEIGHT, 257))
    with pytest.raises(ValueError, match="2 to 8 bits"):
        Levels.log2(WEIGHT, bits=9, axis=None)


def test_names_are_what_users_read() -> None:
    assert {name: CASES[name](sample()).name for name in ("int4", "int4 in groups", "uint2", "ternary", "binary")} == {
        "int4": "int4",
        "int4 in groups": "int4 in groups of 9",
        "uint2": "uint2",
        "ternary": "ternary",
        "binary": "binary",
    }
    assert CASES["masked over codebook of 16"](sample()).name == "8.0 % of codebook of 16"
    assert CASES["low rank of int8"](sample()).name == "rank 3 of int8 and int4"
