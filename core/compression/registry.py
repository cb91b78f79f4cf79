"""Finds the method of a spec."""

from core.compression.method import Method
from core.compression.quantize import QUANTIZE
from core.specs.base import Spec
from core.specs.quantize import LinearQuantization


def method_of(spec: LinearQuantization) -> Method[LinearQuantization]:
    """The method that carries out a step of a recipe."""
    return QUANTIZE[type(spec)]


def known_specs() -> frozenset[type[Spec]]:
    """All specs that have a method; a test compares them with `core.specs.methods`."""
    return frozenset(QUANTIZE)
