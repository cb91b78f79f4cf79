"""One weight in every encoding and legal stack."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.network.encodings import (
    AffineInteger,
    Codebook,
    Dense,
    Encoding,
    Half,
    LowRank,
    Masked,
    packed_grid,
    symmetric_grid,
)
from core.network.encodings.elementwise import Elementwise
from core.network.encodings.grids import Grid
from core.network.encodings.levels import Levels

Make = Callable[[Tensor], Encoding]


def book_of(weight: Tensor, values: int) -> Tensor:
    """Quantiles: no method of choosing a book is tested here."""
    return torch.quantile(weight.flatten(), torch.linspace(0.01, 0.99, values))


def mask_of(weight: Tensor, density: float) -> Tensor:
    return weight.abs() >= torch.quantile(weight.abs().flatten(), 1 - density)


def masked(density: float, inner: Callable[[Tensor], Elementwise]) -> Make:
    return lambda weight: Masked(mask_of(weight, density), inner(weight))


def affine(bits: int, axis: int | None = 0, group: int | None = None) -> Callable[[Tensor], AffineInteger]:
    return lambda weight: AffineInteger.of(weight, grid=packed_grid(bits, group=group), axis=axis)


def asymmetric(bits: int, axis: int | None = 0, group: int | None = None) -> Callable[[Tensor], AffineInteger]:
    grid = packed_grid(bits, asymmetric=True, group=group)
    return lambda weight: AffineInteger.asymmetric(weight, grid=grid, axis=axis)


def codebook(values: int) -> Callable[[Tensor], Codebook]:
    return lambda weight: Codebook.of(weight, book_of(weight, values))


def grouped_codebook(values: int, groups: int = 2) -> Callable[[Tensor], Codebook]:
    return lambda weight: Codebook.of(
        weight, torch.stack([book_of(part, values) * (1 + i) for i, part in enumerate(weight.chunk(groups))])
    )


def int8(weight: Tensor) -> AffineInteger:
    return AffineInteger.of(weight, grid=symmetric_grid(8), axis=0)


def ternary(weight: Tensor) -> AffineInteger:
    return AffineInteger.of(weight, grid=Grid(-1, 1, 0, torch.int8, packed=True), axis=0)


def low_rank(weight: Tensor) -> LowRank:
    return LowRank.of(weight, 3)


def low_rank_of_int8(weight: Tensor) -> LowRank:
    made = LowRank.of(weight, 3)
    return LowRank(affine(8)(made.left.decode()), affine(4)(made.right.decode()), made.shape)


def low_rank_of(inner: Make) -> Make:
    def make(weight: Tensor) -> LowRank:
        made = LowRank.of(weight, 5)
        return LowRank(inner(made.left.decode()), inner(made.right.decode()), made.shape)

    return make


CASES: dict[str, Make] = {
    "dense": Dense,
    "int8 for kernels": int8,
    "uint8": lambda weight: AffineInteger.of(weight, grid=symmetric_grid(8, unsigned=True), axis=0),
    **{f"int{bits}": affine(bits) for bits in range(2, 9)},
    "int4 by tensor": affine(4, None),
    "int3 by tensor": affine(3, None),
    "int4 of inputs": affine(4, 1),
    "int4 in groups": affine(4, group=9),
    "uint2": asymmetric(2),
    "uint5 by tensor": asymmetric(5, None),
    "uint4 in groups": asymmetric(4, group=9),
    "ternary": ternary,
    **{f"codebook of {values}": codebook(values) for values in (1, 2, 3, 7, 16, 27, 64, 100, 256)},
    "2 codebooks of 7": grouped_codebook(7),
    "log2 in 4 bits": lambda weight: Levels.log2(weight, bits=4, axis=None),
    "log2 in 3 bits": lambda weight: Levels.log2(weight, bits=3, axis=0),
    "log2 in 7 bits": lambda weight: Levels.log2(weight, bits=7, axis=0),
    "log2 in 8 bits, 8 an octave": lambda weight: Levels.log2(weight, bits=8, axis=0, per_octave=8),
    "float16": lambda weight: Half.of(weight, dtype="float16"),
    "bfloat16": lambda weight: Half.of(weight, dtype="bfloat16"),
    "masked over bfloat16": masked(0.3, lambda weight: Half.of(weight, dtype="bfloat16")),
    "binary": lambda weight: Levels.binary(weight, axis=0),
    "masked": masked(0.1, Dense),
    "half masked": masked(0.5, Dense),
    "hardly kept": masked(0.01, Dense),
    "masked over int8": masked(0.3, affine(8)),
    "masked over uint8": masked(
        0.3, lambda weight: AffineInteger.of(weight, grid=symmetric_grid(8, unsigned=True), axis=0)
    ),
    "masked over int4": masked(0.1, affine(4)),
    "masked over int4 in groups": masked(0.1, affine(4, group=9)),
    "masked over int3 by tensor": masked(0.6, affine(3, None)),
    "masked over codebook of 16": masked(0.08, codebook(16)),
    "masked over codebook of 5": masked(0.5, codebook(5)),
    "masked over 2 codebooks of 7": masked(0.1, grouped_codebook(7)),
    "masked over log2": masked(0.2, lambda weight: Levels.log2(weight, bits=4, axis=0)),
    "masked over binary": masked(0.2, lambda weight: Levels.binary(weight, axis=None)),
    "low rank": low_rank,
    "low rank of int8": low_rank_of_int8,
    "low rank of a masked codebook": low_rank_of(masked(0.4, codebook(16))),
    "low rank of binary": low_rank_of(lambda weight: Levels.binary(weight, axis=0)),
}


def sample(shape: tuple[int, ...] = (22, 7, 3, 3), seed: int = 0) -> Tensor:
    """A weight with a heavy tail; its size is no multiple of 4, so that codes do not fill their bytes."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise * noise.abs() * 0.05
