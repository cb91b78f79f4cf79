"""The dense encoding: fp32 numbers as they are."""

from typing import final

from pydantic import JsonValue
from torch import Tensor, fx, nn

from core.network.encodings.emission import Emission
from core.network.encodings.encoding import Encoding
from core.network.encodings.trainable import TrainableWeight
from core.specs.composition import EncodingKind
from core.verdict import ItemisedBytes


@final
class Dense(Encoding):
    """A parameter stored as it is."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()

    @property
    def kind(self) -> EncodingKind:
        """`dense`."""
        return "dense"

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

    def trainable(self, weight: Tensor) -> "DenseWeight":
        """One parameter that may take any value."""
        return DenseWeight(weight)

    def bytes(self) -> ItemisedBytes:
        """All bytes are weights."""
        return ItemisedBytes(weights=self._weight.numel() * self._weight.element_size())

    def transpose(self) -> "Dense":
        """The transposed matrix, dense."""
        return Dense(self._weight.t())

    def stored(self) -> dict[str, Tensor]:
        """One tensor."""
        return {"": self._weight.contiguous()}

    def config(self) -> dict[str, JsonValue]:
        """The kind alone."""
        return {"kind": "dense"}

    def emit_onnx(self, emission: Emission) -> fx.Node:
        """One parameter."""
        return emission.parameter(self._weight)

    def emit_pt2(self, emission: Emission) -> fx.Node:
        """One parameter."""
        return emission.parameter(self._weight)


@final
class DenseWeight(TrainableWeight):
    """A weight that may take any value."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().clone())

    def forward(self) -> Tensor:
        """The parameter itself."""
        return self.weight

    def encode(self) -> Dense:
        """The parameter, dense."""
        return Dense(self.weight.detach().clone())
