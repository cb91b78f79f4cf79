"""The opset of an ONNX model: which are read as they are, and which are brought up first."""

import onnx
import onnx.version_converter

from core.errors import ModelpressError
from core.network.onnx_steps import DEFAULT_DOMAINS

# Broadcasting as it is now came with opset 7; every operator is read by the rules of its own opset from there on.
OLDEST_OPSET = 7
MODERN_OPSET = 20
_HINT = f"Export it with `opset_version={MODERN_OPSET}`."


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of the standard's operators; raises `unsupported_version` where it is unknown or stated twice."""
    versions = {entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS}
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not 1 <= max(versions) <= newest:
        stated = ", ".join(map(str, sorted(versions))) or "none"
        sentence = f"The file states opset {stated}; {OLDEST_OPSET} to {newest} are read."
        raise ModelpressError("unsupported_version", sentence, hint=_HINT)
    return int(versions.pop())


def bring_up(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of an opset that is read; older ones go through the converter of the `onnx` package."""
    opset = opset_of(model)
    if opset >= OLDEST_OPSET:
        return model
    converted = convert(model, OLDEST_OPSET + 1)
    if converted is None:
        sentence = f"The file is of opset {opset}, and the converter of the onnx package cannot bring it up."
        raise ModelpressError("unsupported_version", sentence, hint=_HINT)
    return converted


def convert(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """The model in another opset, None where the converter cannot make it; metadata is kept."""
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted
