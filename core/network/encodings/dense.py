"""The dense encoding: fp32 numbers as they are."""

from typing import final

from torch import Tensor, fx

from core.network.encodings.encoding import Emission, Encoding
from core.verdict import ItemisedBytes


@final
class Dense(Encoding):
    """A parameter stored as it is."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()

    @property
    def name(self) -> str:
        """`float32`, or the dtype that is stored."""
        return str(self._weight.dtype).removeprefix("torch.")

    def decode(self) -> Tensor:
        """The stored tensor in fp32."""
        return self._weight.float()

    def project(self, weight: Tensor) -> Tensor:
        """Every tensor is on this grid."""
        return weight

    def bytes(self) -> ItemisedBytes:
        """All bytes are weights."""
        return ItemisedBytes(weights=self._weight.numel() * self._weight.element_size())

    def transpose(self) -> "Dense":
        """The transposed matrix, dense."""
        return Dense(self._weight.t())

    def stored(self) -> dict[str, Tensor]:
        """One tensor."""
        return {"": self._weight.contiguous()}

    def emit_onnx(self, emission: Emission) -> fx.Node:
        """One parameter."""
        return emission.parameter(self._weight)

    def emit_pt2(self, emission: Emission) -> fx.Node:
        """One parameter."""
        return emission.parameter(self._weight)
