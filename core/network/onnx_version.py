"""The opset of an ONNX model: which are read as they are, and which are brought up first."""

import onnx
import onnx.version_converter

from core.errors import ModelpressError
from core.network.onnx_steps import DEFAULT_DOMAINS

# Broadcasting as it is now came with opset 7; every operator is read by the rules of its own opset from there on.
OLDEST_OPSET = 7
MODERN_OPSET = 20
# Stands for a free size while a model is converted; no layer has this width, so where it is baked in the graph fails.
_STAND_IN = 97
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
    """The model in another opset, None where the converter cannot make it; metadata and names of sizes are kept."""
    converted = _convert(model, opset)
    if converted is None:
        # It needs numbers where old operators broadcast.
        numbered = _with_numbers(model)
        converted = _convert(numbered, opset)
        if converted is None:
            return None
        for made, given in zip(_interface(converted), _interface(model), strict=True):
            made.type.CopyFrom(given.type)
        # What it says of values in between has the numbers.
        del converted.graph.value_info[:]
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def _convert(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None


def _with_numbers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose free sizes are numbers."""
    numbered = onnx.ModelProto()
    numbered.CopyFrom(model)
    for value in _interface(numbered):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value <= 0:
                size.dim_value = _STAND_IN
    return numbered


def _interface(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs and outputs, stored inputs left out."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in (*model.graph.input, *model.graph.output) if value.name not in stored]
