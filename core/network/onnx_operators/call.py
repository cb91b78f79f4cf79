"""One ONNX node as its operator sees it: typed access to the attributes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import ModelpressError

Attribute = int | float | str | list[int] | list[float] | list[str] | NDArray[np.generic]
Result = torch.Tensor | tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Call:
    """A node: its operator, name, attributes, number of outputs and the opset of its graph."""

    operator: str
    name: str
    attributes: Mapping[str, Attribute]
    outputs: int
    opset: int

    def integer(self, name: str, default: int) -> int:
        """An integer attribute, or the default of the standard."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else self.refuse(f"attribute {name} is no integer")

    def number(self, name: str, default: float) -> float:
        """A float attribute, or the default of the standard."""
        value = self.attributes.get(name, default)
        return float(value) if isinstance(value, (int, float)) else self.refuse(f"attribute {name} is no number")

    def text(self, name: str, default: str) -> str:
        """A string attribute, or the default of the standard."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, str) else self.refuse(f"attribute {name} is no string")

    def integers(self, name: str) -> list[int] | None:
        """A list of integers, or None where the node does not have it."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.refuse(f"attribute {name} is no list")
        return [int(entry) for entry in value]

    def refuse(self, reason: str) -> NoReturn:
        """Say that this node cannot be read, and why."""
        raise ModelpressError(
            "unsupported_operator", f"Node {self.name} ({self.operator}) cannot be read: {reason}.", node=self.name
        )


@dataclass(frozen=True)
class Operator:
    """How one ONNX operator runs in torch.

    The inputs whose positions are in `static` come as lists of Python numbers (sizes, axes, pads, limits) and must not
    depend on the data. With `scalars`, a constant of no dimensions comes as a Python number.
    """

    run: Callable[..., Result]
    static: frozenset[int] = field(default_factory=frozenset)
    scalars: bool = False


def static(run: Callable[..., Result], *positions: int) -> Operator:
    """An operator with static inputs."""
    return Operator(run, frozenset(positions))
