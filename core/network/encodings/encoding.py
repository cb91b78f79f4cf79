"""What every encoding can do: how one parameter is stored, decoded, put back on its grid, trained and written."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue
from torch import Tensor, fx

from core.network.encodings.aten_writer import AtenWriter
from core.network.encodings.emission import Emission
from core.network.encodings.writer import V, Writer
from core.specs.composition import EncodingKind
from core.verdict import ItemisedBytes

if TYPE_CHECKING:
    from core.network.encodings.trainable import TrainableWeight


class Encoding(ABC):
    """How one parameter is stored. Immutable; the dense fp32 parameter in the network always equals `decode()`."""

    @property
    @abstractmethod
    def kind(self) -> EncodingKind:
        """The word of the table of compositions; of a stack the outermost."""

    @property
    def kinds(self) -> tuple[EncodingKind, ...]:
        """The kinds of a stack, outermost first."""
        return (self.kind,)

    @property
    @abstractmethod
    def name(self) -> str:
        """What users read, such as `int8`."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""

    @property
    def has_kernel(self) -> bool:
        """Whether onnxruntime can multiply what is stored as it is, where a layer's input is rounded too."""
        return False

    @abstractmethod
    def decode(self) -> Tensor:
        """The dense fp32 tensor, in the shape of the parameter."""

    @abstractmethod
    def project(self, weight: Tensor) -> Tensor:
        """The tensor on this encoding's grid that is nearest to `weight` (same shape)."""

    @abstractmethod
    def trainable(self, weight: Tensor) -> "TrainableWeight":
        """What is trained in place of the parameter; latent weights start as `weight` (same shape)."""

    @abstractmethod
    def bytes(self) -> ItemisedBytes:
        """Bytes of the stored numbers, by item; `graph` is not the encoding's to count."""

    @abstractmethod
    def stored(self) -> dict[str, Tensor]:
        """The tensors as they are stored, by suffix ("" for the main one); what `.safetensors` holds."""

    @abstractmethod
    def config(self) -> dict[str, JsonValue]:
        """All that `stored` does not say, and the kind: `restore(config(), stored())` gives this encoding again."""

    @abstractmethod
    def write(self, writer: Writer[V]) -> V:
        """Write how the dense fp32 tensor is rebuilt from what is stored; gives that value."""

    def emit_onnx(self, emission: Emission) -> fx.Node:
        """The fp32 value, for torch.onnx: what onnxruntime folds at load, unless it has a kernel for the encoding."""
        return emission.stored(self, self.write, torch.float32)

    def emit_pt2(self, emission: Emission) -> fx.Node:
        """The fp32 value, by plain ATen nodes."""
        return self.write(AtenWriter(emission))
