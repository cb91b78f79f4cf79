"""The dense encoding: fp32 numbers as they are."""

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import JsonValue
from torch import Tensor, fx, nn

from core.network.encodings.elementwise import Elementwise
from core.network.encodings.emission import Emission
from core.network.encodings.trainable import TrainableWeight
from core.network.encodings.writer import Role, V, Writer
from core.specs.composition import EncodingKind


@final
class Dense(Elementwise):
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

    @property
    def bits(self) -> None:
        """Numbers are stored as they are."""
        return

    @property
    def codes(self) -> Tensor:
        """The tensor itself."""
        return self._weight

    def sides(self) -> dict[str, tuple[Role, Tensor]]:
        """Nothing."""
        return {}

    def at(self, weight: Tensor) -> "Dense":
        """`weight`, in the stored dtype."""
        return Dense(weight.to(self._weight.dtype))

    def config(self) -> dict[str, JsonValue]:
        """The shape."""
        return {"kind": "dense", "shape": list(self.shape), "bits": None}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], codes: Tensor, sides: Mapping[str, Tensor]) -> "Dense":
        """The stored tensor."""
        del config, sides
        return cls(codes)

    def values(self, writer: Writer[V], stored: V) -> V:
        """Cast to fp32 where they are not."""
        return stored if self._weight.dtype is torch.float32 else writer.floats(stored)

    def finish(self, writer: Writer[V], values: V) -> V:
        """Nothing is left to do."""
        del writer
        return values

    def emit_onnx(self, emission: Emission) -> fx.Node:
        """One parameter."""
        return emission.parameter(self._weight.t() if emission.transposed else self._weight)

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
