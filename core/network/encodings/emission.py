"""Where an encoding writes the nodes that rebuild one parameter."""

from collections.abc import Callable

from torch import Tensor, fx, nn


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
