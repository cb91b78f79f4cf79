"""The low-rank encoding: a weight as the product of two thin matrices, each in an encoding of its own."""

from typing import final

import torch
from pydantic import JsonValue
from torch import Tensor

from core.network.encodings.dense import Dense
from core.network.encodings.encoding import Encoding
from core.network.encodings.trainable import TrainableWeight
from core.network.encodings.writer import V, Writer
from core.specs.composition import EncodingKind
from core.verdict import ItemisedBytes


@final
class LowRank(Encoding):
    """left (channels, rank) · right (rank, weights of a channel), in the shape of the weight.

    The file has the factors; onnxruntime multiplies them once while it loads, in another order of sums than torch: its
    weight differs in the last bits.
    """

    def __init__(self, left: Encoding, right: Encoding, shape: tuple[int, ...]) -> None:
        self.left = left
        self.right = right
        self._shape = shape

    @classmethod
    def of(cls, weight: Tensor, rank: int) -> "LowRank":
        """The nearest weight of this rank, by singular values (Eckart and Young 1936), split evenly."""
        left, singular, right = _decompose(weight, rank)
        root = singular.sqrt()
        return cls(Dense((left * root).float()), Dense((root.unsqueeze(1) * right).float()), tuple(weight.shape))

    @property
    def kind(self) -> EncodingKind:
        """`low_rank`."""
        return "low_rank"

    @property
    def kinds(self) -> tuple[EncodingKind, ...]:
        """Low rank, then how the factors are stored; dense numbers are not named."""
        inner = dict.fromkeys(kind for factor in (self.left, self.right) for kind in factor.kinds if kind != "dense")
        return ("low_rank", *inner)

    @property
    def rank(self) -> int:
        """Columns of the left factor."""
        return self.left.shape[1]

    @property
    def name(self) -> str:
        """Such as `rank 8`, or `rank 8 of int8`."""
        names = dict.fromkeys(factor.name for factor in (self.left, self.right) if factor.kind != "dense")
        return f"rank {self.rank}" + (f" of {' and '.join(names)}" if names else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self._shape

    def decode(self) -> Tensor:
        """left · right."""
        return (self.left.decode() @ self.right.decode()).reshape(self._shape)

    def project(self, weight: Tensor) -> Tensor:
        """The nearest weight of this rank; with encoded factors, these are put on their grids."""
        left, singular, right = _decompose(weight, self.rank)
        root = singular.sqrt()
        factors = self.left.project((left * root).float()), self.right.project((root.unsqueeze(1) * right).float())
        return (factors[0] @ factors[1]).reshape(self._shape)

    def trainable(self, weight: Tensor) -> "LowRankWeight":
        """Both factors; they start as they are, since `weight` may have any rank."""
        del weight
        factors = [factor.trainable(factor.decode()) for factor in (self.left, self.right)]
        return LowRankWeight(factors[0], factors[1], self._shape)

    def bytes(self) -> ItemisedBytes:
        """Those of both factors."""
        left, right = self.left.bytes().model_dump(), self.right.bytes().model_dump()
        return ItemisedBytes(**{item: left[item] + right[item] for item in left})

    def stored(self) -> dict[str, Tensor]:
        """The tensors of `left` and `right`, behind these words."""
        return {
            f"{side}.{suffix}".rstrip("."): tensor
            for side, factor in (("left", self.left), ("right", self.right))
            for suffix, tensor in factor.stored().items()
        }

    def config(self) -> dict[str, JsonValue]:
        """Shape, and the factors' own."""
        shape: list[JsonValue] = list(self._shape)
        return {"kind": "low_rank", "shape": shape, "left": self.left.config(), "right": self.right.config()}

    def write(self, writer: Writer[V]) -> V:
        """The product."""
        with writer.under("left"):
            left = self.left.write(writer)
        with writer.under("right"):
            right = self.right.write(writer)
        return writer.reshape(writer.product(left, right), self._shape)


@final
class LowRankWeight(TrainableWeight):
    """Two factors that are trained."""

    def __init__(self, left: TrainableWeight, right: TrainableWeight, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self._shape = shape

    def forward(self) -> Tensor:
        """left · right."""
        left, right = self.left(), self.right()
        made: Tensor = (left @ right).reshape(self._shape)
        return made

    def encode(self) -> LowRank:
        """The factors as they are now."""
        return LowRank(self.left.encode(), self.right.encode(), self._shape)


def _decompose(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    left, singular, right = torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)
    return left[:, :rank], singular[:rank], right[:rank]
