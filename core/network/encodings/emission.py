"""Where an encoding writes the nodes that rebuild one parameter."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from core.network.encodings import operators

if TYPE_CHECKING:
    from core.network.encodings.encoding import Encoding


class Written:
    """What is written only once the ONNX graph is there: encodings by the keys of their `Stored` nodes."""

    def __init__(self) -> None:
        self.encodings: dict[str, Encoding] = {}
        self._keys: dict[int, str] = {}

    def key(self, encoding: "Encoding", wanted: str) -> str:
        """`wanted`, or the key under which the same encoding (of a tied parameter) is written already."""
        key = self._keys.setdefault(id(encoding), wanted)
        self.encodings[key] = encoding
        return key


class Emission:
    """A place in an `fx.Graph` where an encoding writes the nodes that rebuild one parameter.

    Buffers go into the module `owner` (`conv1`) under `name` (`weight`) and names derived from it, so that they appear
    in the written file under the parameter's own path. `fused` says that the runtime multiplies the weight's integers
    as they are, `transposed` that the transposed matrix is wanted.
    """

    def __init__(self, module: fx.GraphModule, path: str, written: Written | None = None) -> None:
        self._module = module
        self._path = path
        self._owner, _, self._name = path.rpartition(".")
        self._written = written or Written()
        self.fused = False
        self.transposed = False

    def buffer(self, suffix: str, value: Tensor) -> fx.Node:
        """Store `value` as a buffer beside the parameter and give the node that reads it."""
        attribute = f"{self._name}_{suffix}" if suffix else self._name
        container = self._module.get_submodule(self._owner)
        container.register_buffer(attribute, value.detach().contiguous())
        return self._module.graph.get_attr(f"{self._owner}.{attribute}" if self._owner else attribute)

    def parameter(self, value: Tensor) -> fx.Node:
        """Store `value` as the parameter itself."""
        self._module.get_submodule(self._owner).register_parameter(
            self._name, nn.Parameter(value.detach().contiguous(), requires_grad=False)
        )
        return self._module.graph.get_attr(self._path)

    def call(self, function: Callable[..., object], *arguments: object) -> fx.Node:
        """Add a call of a torch function or operator."""
        return self._module.graph.call_function(function, tuple(arguments))  # type: ignore[arg-type]  # fx's Argument

    def stored(self, encoding: "Encoding", dtype: torch.dtype) -> fx.Node:
        """A node in whose place the ONNX writer puts what the encoding writes."""
        key = self._written.key(encoding, self._path)
        value = self.call(operators.stored, key, tuple(encoding.shape), dtype)
        return self.call(torch.ops.aten.t.default, value) if self.transposed else value
