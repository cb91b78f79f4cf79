"""Where an encoding writes the nodes that rebuild one parameter."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from core.network.encodings import operators

if TYPE_CHECKING:
    from core.network.encodings.encoding import Encoding
    from core.network.encodings.onnx_writer import OnnxWriter

Write = Callable[["OnnxWriter"], str]


class Written:
    """What is written only once the ONNX graph is there, by the keys of the nodes that stand for it."""

    def __init__(self) -> None:
        self.writes: dict[str, Write] = {}
        self._keys: dict[tuple[int, torch.dtype], str] = {}
        # Held, so that no other encoding gets the id of one that is gone.
        self.encodings: list[Encoding] = []

    def add(self, encoding: "Encoding", wanted: str, write: Write, dtype: torch.dtype) -> str:
        """The key of the encoding: `wanted`, or where it belongs to tied weights that under which it is written."""
        known = (id(encoding), dtype)
        if known not in self._keys:
            key = wanted if wanted not in self.writes else f"{wanted}.{str(dtype).removeprefix('torch.')}"
            self._keys[known] = key
            self.writes[key] = write
            self.encodings.append(encoding)
        return self._keys[known]


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

    def stored(self, encoding: "Encoding", write: Write, dtype: torch.dtype) -> fx.Node:
        """A node that stands for what `write` will write of the encoding, in its shape."""
        key = self._written.add(encoding, self._path, write, dtype)
        value = self.call(operators.stored, key, encoding.shape, dtype)
        return self.call(torch.ops.aten.t.default, value) if self.transposed else value
