"""The ONNX reader: each node runs as plain torch, and `torch.export` makes the flat graph of it."""

from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import fx
from torch.export import Dim

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.batch_axes import batch_axes
from core.network.flat import FlatProgram, dominant_dtype, flatten_exported
from core.network.onnx_branches import all_nodes, read_steps
from core.network.onnx_module import OnnxModule
from core.network.onnx_names import name_weights
from core.network.onnx_operators.elementwise import DTYPES
from core.network.onnx_recurrent import split_weights
from core.network.onnx_steps import DEFAULT_DOMAINS, RUN_ERRORS, first_line, fold_constants, to_arrays
from core.network.recurrent_calls import WholeRecurrent, restore_calls
from core.network.sampling import example_of
from core.network.strip import own_metadata

# The batch while a free one is traced: not 0 or 1, which torch treats as special.
EXAMPLE_BATCH = 2
# What stands for other free sizes, until the network takes one.
FREE_SIZES = (16, 48, 64, 224)
# Names of the types that are computed in fp32.
_WIDENED: Mapping[int, str] = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.DOUBLE: "float64",
}


def read_onnx(model: onnx.ModelProto) -> FlatProgram:
    """The flat program of a model that has passed the gate.

    Raises `unsupported_operator` or `unsupported_graph` with the node, `corrupt_file` where a tensor's bytes are wrong.
    """
    module, inputs, opset = _load(model)
    if not inputs:
        raise ModelpressError("unsupported_graph", "The graph has no inputs.")
    graph, example = _trace_at_some_size(module, inputs)
    return FlatProgram(
        graph=graph,
        inputs=inputs,
        outputs=tuple(output.name for output in model.graph.output),
        example=example,
        dtype=dominant_dtype((str(array.dtype), array.nbytes) for array in to_arrays(model.graph.initializer).values()),
        opset=opset,
        producer=f"{model.producer_name} {model.producer_version}".strip()[:100] or None,
        metadata=own_metadata(model),
    )


def load_module(model: onnx.ModelProto) -> OnnxModule:
    """The graph as a module that runs node after node."""
    return _load(model)[0]


def trace_values(model: onnx.ModelProto, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor that the nodes make when the graph runs as plain torch; to find where a difference begins."""
    module = load_module(model)
    with torch.no_grad():
        values = module.evaluate(inputs)
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _load(model: onnx.ModelProto) -> tuple[OnnxModule, tuple[TensorDescription, ...], int]:
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS)
    stored = to_arrays(graph.initializer)
    constants = dict(stored)
    steps = split_weights(fold_constants(read_steps(graph, opset, constants), constants), constants)
    used = {name for node in all_nodes(steps) for name in node.input} | {output.name for output in graph.output}
    needed = {name: array for name, array in constants.items() if name in used}
    names = name_weights(all_nodes(steps), needed, stored)
    inputs = tuple(_describe(value) for value in graph.input if value.name not in stored)
    module = OnnxModule(steps, constants, names, [value.name for value in inputs], [v.name for v in graph.output])
    return module.eval(), inputs, opset


def _trace_at_some_size(
    module: OnnxModule, inputs: tuple[TensorDescription, ...]
) -> tuple[fx.GraphModule, tuple[torch.Tensor, ...]]:
    """The traced graph and the example that it took; many networks do not take every free size."""
    axes = batch_axes([value.shape for value in inputs])
    some = any(
        isinstance(size, str) and index != axis
        for value, axis in zip(inputs, axes, strict=True)
        for index, size in enumerate(value.shape)
    )
    for size in FREE_SIZES if some else FREE_SIZES[-1:]:
        example = example_of(inputs, batch=EXAMPLE_BATCH, free=size, axes=axes)
        try:
            return _trace(module, inputs, example), example
        except ModelpressError as error:
            if error.code != "unsupported_graph" or size == FREE_SIZES[-1]:
                raise
    raise AssertionError


def _trace(
    module: OnnxModule, inputs: tuple[TensorDescription, ...], example: tuple[torch.Tensor, ...]
) -> fx.GraphModule:
    free = tuple(
        {index: Dim.AUTO for index, size in enumerate(value.shape) if isinstance(size, str)} for value in inputs
    )
    try:
        with WholeRecurrent():
            program = torch.export.export(module, example, dynamic_shapes=(free,))
    except RUN_ERRORS as error:
        raise ModelpressError("unsupported_graph", f"The graph cannot be traced: {first_line(error)}") from error
    graph = flatten_exported(program, prefix="weights.")
    restore_calls(graph.graph)
    return graph


def _describe(value: onnx.ValueInfoProto) -> TensorDescription:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        raise ModelpressError("unsupported_graph", f"Input {value.name} is no tensor of a type that is read.")
    if not kind.HasField("shape"):
        raise ModelpressError("unsupported_graph", f"Input {value.name} has no shape.", hint="Export it with a shape.")
    shape = tuple(
        size.dim_value if size.dim_value > 0 else _named(size.dim_param) or f"{value.name}_{index}"
        for index, size in enumerate(kind.shape.dim)
    )
    return TensorDescription(name=value.name, dtype=_dtype_name(kind.elem_type), shape=shape)


def _named(size: str) -> str:
    """The name of a free size; exporters that know none write a question mark."""
    return "" if size.strip("?") == "" else size


def _dtype_name(element: int) -> str:
    return _WIDENED.get(element, str(DTYPES[element]).removeprefix("torch."))
