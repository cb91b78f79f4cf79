"""What every method is: a function from a network (or an ONNX file) to a smaller one, and a report of what it did."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import JsonValue

from core.compression.context import Context
from core.network.network import Network
from core.specs.base import Spec
from core.verdict import Finding, Sensitivity

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Report:
    """What a method did: the layers it changed, what it wants to say, and all it decided, enough to do it again.

    Layers that `layers` does not name stay bit-identical. `sensitivities` may name more layers than were changed.
    """

    layers: tuple[str, ...]
    sensitivities: dict[str, Sensitivity] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    plan: dict[str, JsonValue] = field(default_factory=dict)


class Method(ABC, Generic[S]):
    """One way to compress; whether it fits a model is asked of its spec (`Spec.requires`)."""

    @abstractmethod
    def apply(self, network: Network, spec: S, context: Context) -> tuple[Network, Report]:
        """A compressed copy of `network`, deterministic given the seed; raises `ModelpressError`."""


class FileMethod(ABC, Generic[S]):
    """One way to compress an ONNX file as it is; its spec says `works_on = "file"`."""

    @abstractmethod
    def apply(self, model: Path, result: Path, spec: S, context: Context) -> Report:
        """Write the compressed copy of `model` to `result`, deterministic given the seed; raises `ModelpressError`."""
