"""The versions of all that decides the bytes of a result; nothing is imported to find them."""

import importlib.metadata
import platform
from functools import cache

_PACKAGES = ("modelpress", "torch", "onnx", "onnxscript", "onnxruntime", "numpy", "safetensors")


@cache
def versions() -> dict[str, str]:
    """By package, and of Python itself."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**found, "python": platform.python_version()}
