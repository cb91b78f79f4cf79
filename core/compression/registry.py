"""Finds the method of a spec."""

from collections.abc import Mapping
from typing import Any

from core.compression.distill import DISTILL
from core.compression.method import FileMethod, Method
from core.compression.prune import PRUNE
from core.compression.quantize import QUANTIZE, QUANTIZE_FILES
from core.compression.train import TRAIN
from core.specs.base import Spec

_METHODS: Mapping[type[Spec], Method[Any]] = {**QUANTIZE, **PRUNE, **DISTILL, **TRAIN}


def method_of(spec: Spec) -> Method[Any]:
    """The method that carries out a step on a network."""
    return _METHODS[type(spec)]


def file_method_of(spec: Spec) -> FileMethod[Any]:
    """The method that carries out a step on an ONNX file."""
    return QUANTIZE_FILES[type(spec)]


def known_specs() -> frozenset[type[Spec]]:
    """All specs that have a method; a test compares them with `core.specs.methods`."""
    return frozenset(_METHODS) | frozenset(QUANTIZE_FILES)
