"""The half encoding: floating-point numbers of 16 bits, IEEE 754's binary16 or bfloat16."""

from collections.abc import Mapping
from typing import Any, Final, Literal, final

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from core.network.encodings.elementwise import Elementwise
from core.network.encodings.trainable import TrainableWeight
from core.network.encodings.writer import Role, V, Writer
from core.specs.composition import EncodingKind

HalfType = Literal["float16", "bfloat16"]
DTYPES: Final[dict[HalfType, torch.dtype]] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@final
class Half(Elementwise):
    """Each weight as the nearest number of 16 bits; beyond the largest (65,504 of float16) as that."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers

    @classmethod
    def of(cls, weight: Tensor, *, dtype: HalfType) -> "Half":
        """The nearest numbers of `dtype`."""
        return cls(_rounded(weight.detach(), DTYPES[dtype]))

    def at(self, weight: Tensor) -> "Half":
        """The nearest numbers of the same type."""
        return Half(_rounded(weight.detach(), self._numbers.dtype))

    @property
    def kind(self) -> EncodingKind:
        """`half`."""
        return "half"

    @property
    def name(self) -> str:
        """`float16` or `bfloat16`."""
        return str(self._numbers.dtype).removeprefix("torch.")

    @property
    def bits(self) -> None:
        """Numbers are stored in their own dtype."""
        return

    @property
    def codes(self) -> Tensor:
        """The numbers of 16 bits."""
        return self._numbers

    @property
    def role(self) -> Role:
        """A vector is a bias."""
        return "biases" if self._numbers.dim() == 1 else "weights"

    def decode(self) -> Tensor:
        """The same numbers in fp32, which holds all of them."""
        return self._numbers.float()

    def trainable(self, weight: Tensor) -> "HalfWeight":
        """A latent weight in fp32."""
        return HalfWeight(weight, self)

    def sides(self) -> dict[str, tuple[Role, Tensor]]:
        """Nothing."""
        return {}

    def config(self) -> dict[str, JsonValue]:
        """Shape and type."""
        return {"kind": "half", "shape": list(self.shape), "bits": None, "type": self.name}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], codes: Tensor, sides: Mapping[str, Tensor]) -> "Half":
        """The stored numbers."""
        del sides
        kinds: Mapping[str, torch.dtype] = {str(name): dtype for name, dtype in DTYPES.items()}
        return cls(codes.to(kinds[config["type"]]))

    def values(self, writer: Writer[V], stored: V) -> V:
        """Cast to fp32."""
        return writer.floats(stored)

    def finish(self, writer: Writer[V], values: V) -> V:
        """Nothing is left to do."""
        del writer
        return values


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    return weight.float().clamp(-largest, largest).to(dtype)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, rounded: Tensor) -> Tensor:
        del ctx, latent
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        # Not by way of 16 bits, in which small gradients vanish.
        return gradients[0], None


@final
class HalfWeight(TrainableWeight):
    """A latent weight in fp32 that is rounded with a straight-through gradient."""

    def __init__(self, weight: Tensor, start: Half) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().float().clone())
        self._start = start

    def forward(self) -> Tensor:
        """The numbers of 16 bits, in fp32."""
        made: Tensor = _Through.apply(self.latent, self.encode().decode())  # type: ignore[no-untyped-call]  # torch's
        return made

    def encode(self) -> Half:
        """The nearest numbers to the latent weight."""
        return self._start.at(self.latent)
