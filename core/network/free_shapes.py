"""Which sizes of the outputs are free: found by following shapes at two sizes of every free size of the inputs."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import fx

from core.description import BATCH, TensorDescription
from core.errors import ModelpressError
from core.network.batch_axes import Axes
from core.network.flat import FlatProgram, make_example, trace_shapes

Shapes = list[tuple[int, ...]]


def describe_outputs(flat: FlatProgram, batch: Axes) -> tuple[TensorDescription, ...]:
    """The outputs of a flat program whose `node.meta["value"]` are known; what follows a free size is named after it.

    A size that is computed from a free one, such as frames from samples, is named `output_0_1` by output and axis.
    `batch` has the axis of each output that counts samples.
    """
    values = cast("tuple[fx.Node, ...]", flat.graph.graph.output_node().args[0])
    shapes: list[list[int | str]] = [list(value.meta["value"].shape) for value in values]
    names = _free_names(flat.inputs)
    for name in names:
        # Sizes that have different names may still have to be equal.
        sizes, twice = _shapes_at(flat, name, {name}) or _shapes_at(flat, name, set(names)) or (0, [])
        for index, (shape, longer) in enumerate(zip(shapes, twice, strict=bool(twice))):
            for axis, size in enumerate(longer):
                if size != shape[axis] and isinstance(shape[axis], int):
                    shape[axis] = name if size == sizes else f"output_{index}_{axis}"
    for shape, counted in zip(shapes, batch, strict=True):
        if counted is not None:
            shape[counted] = BATCH
    return tuple(
        TensorDescription(name=name, dtype=str(value.meta["value"].dtype).removeprefix("torch."), shape=tuple(shape))
        for name, value, shape in zip(flat.outputs, values, shapes, strict=True)
    )


def free_sizes_of(flat: FlatProgram) -> dict[str, int]:
    """The number that each free size, other than the batch, has in the example."""
    sizes: dict[str, int] = {}
    for value, tensor in zip(flat.inputs, flat.example, strict=True):
        for axis, size in enumerate(value.shape):
            if isinstance(size, str) and size != BATCH:
                sizes.setdefault(size, tensor.shape[axis])
    return sizes


def _free_names(inputs: Sequence[TensorDescription]) -> list[str]:
    sizes = (size for value in inputs for size in value.shape)
    return list(dict.fromkeys(size for size in sizes if isinstance(size, str) and size != BATCH))


def _shapes_at(flat: FlatProgram, name: str, doubled_names: set[str]) -> tuple[int, Shapes] | None:
    """Twice the size of `name`, and the shapes of the outputs there; None where the graph does not take that."""
    shapes = [
        [2 * size if named in doubled_names else size for named, size in zip(value.shape, tensor.shape, strict=True)]
        for value, tensor in zip(flat.inputs, flat.example, strict=True)
    ]
    doubled = next(
        size
        for value, shape in zip(flat.inputs, shapes, strict=True)
        for named, size in zip(value.shape, shape, strict=True)
        if named == name
    )
    try:
        inputs = [
            make_example(value.name, shape, tensor.dtype)
            for value, shape, tensor in zip(flat.inputs, shapes, flat.example, strict=True)
        ]
        values = trace_shapes(flat.graph, inputs)
    except ModelpressError:
        return None
    outputs = cast("tuple[fx.Node, ...]", flat.graph.graph.output_node().args[0])
    return doubled, [tuple(cast("torch.Tensor", values[node]).shape) for node in outputs]
