"""What every encoding can do: how one parameter is stored, decoded, put back on its grid, counted and written."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, fx, nn

from core.verdict import ItemisedBytes


class Emission:
    """A place in an `fx.Graph` where an encoding writes the nodes that rebuild one parameter.

    Buffers go into the module `owner` (`conv1`) under `name` (`weight`) and names derived from it, so that they appear
    in the written file under the parameter's own path.
    """

    def __init__(self, module: fx.GraphModule, owner: str, name: str) -> None:
        self._module = module
        self._owner = owner
        self._name = name

    def buffer(self, suffix: str, value: Tensor) -> fx.Node:
        """Store `value` as a buffer beside the parameter and give the node that reads it."""
        attribute = f"{self._name}_{suffix}" if suffix else self._name
        container = self._module.get_submodule(self._owner)
        container.register_buffer(attribute, value.detach().contiguous())
        path = f"{self._owner}.{attribute}" if self._owner else attribute
        return self._module.graph.get_attr(path)

    def parameter(self, value: Tensor) -> fx.Node:
        """Store `value` as the parameter itself."""
        self._module.get_submodule(self._owner).register_parameter(
            self._name, nn.Parameter(value.detach().contiguous(), requires_grad=False)
        )
        return self._module.graph.get_attr(f"{self._owner}.{self._name}" if self._owner else self._name)

    def call(self, function: Callable[..., object], *arguments: object) -> fx.Node:
        """Add a call of a torch function or operator."""
        return self._module.graph.call_function(function, tuple(arguments))  # type: ignore[arg-type]  # fx's Argument


class Encoding(ABC):
    """How one parameter is stored. Immutable; the dense fp32 parameter in the network always equals `decode()`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What users read, such as `int8`."""

    @abstractmethod
    def decode(self) -> Tensor:
        """The dense fp32 tensor, in the shape of the parameter."""

    @abstractmethod
    def project(self, weight: Tensor) -> Tensor:
        """The tensor on this encoding's grid that is nearest to `weight` (same shape)."""

    @abstractmethod
    def bytes(self) -> ItemisedBytes:
        """Bytes of the stored numbers, by item; `graph` is not the encoding's to count."""

    @abstractmethod
    def transpose(self) -> "Encoding":
        """The encoding of the transposed matrix."""

    @abstractmethod
    def stored(self) -> dict[str, Tensor]:
        """The tensors as they are stored, by suffix ("" for the main one); what `.safetensors` holds."""

    @abstractmethod
    def emit_onnx(self, emission: Emission) -> fx.Node:
        """Write nodes that torch.onnx turns into what onnxruntime runs fastest; gives the fp32 value."""

    @abstractmethod
    def emit_pt2(self, emission: Emission) -> fx.Node:
        """Write plain ATen nodes; gives the fp32 value."""
