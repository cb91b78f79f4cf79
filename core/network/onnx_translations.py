"""torch's table of operators in ONNX, kept from export to export: torch parses hundreds of functions for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry


@contextmanager
def keep_translations() -> Iterator[None]:
    """While this is entered, an export of torch takes a copy of the table that the first one made."""
    own = ONNXRegistry.__dict__["from_torchlib"]
    setattr(ONNXRegistry, "from_torchlib", staticmethod(_copy_table))  # noqa: B010  (mypy lets no method be replaced)
    try:
        yield
    finally:
        setattr(ONNXRegistry, "from_torchlib", own)  # noqa: B010


def _copy_table(opset_version: int) -> ONNXRegistry:
    # Translations of our own are registered in the copy.
    made = ONNXRegistry()
    made._opset_version = opset_version
    made.functions = {target: list(found) for target, found in _make_table(opset_version).functions.items()}
    return made


_make_own = ONNXRegistry.from_torchlib


@cache
def _make_table(opset_version: int) -> ONNXRegistry:
    return _make_own(opset_version)
