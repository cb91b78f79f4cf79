"""The operators of a file as a runtime computes them: each product with all that follows it, at any width.

Runtimes fuse what follows a product (bias, norm, activation, sum of a shortcut) into it or nearly so, so a file is cut
in front of every product, and each part is a small model that can be timed on its own. A node belongs to the last of
the products that it depends on; so no part depends on a later one.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from core.measure.costs import WEIGHTS
from core.measure.onnx_graph import OnnxGraph, run_all
from core.measure.runtime import Feed
from core.measure.symbolic_sizes import Scaled, Size, SizeBook, size_of
from core.network.surgery.dimensions import Dimension, leaves

_PRODUCTS = frozenset({*WEIGHTS, "LSTM", "GRU", "RNN", "Attention", "Einsum"})
# Whole numbers up to so many are read as sizes: targets of reshapes, lengths of splits.
_MOST_NUMBERS = 64
# What stands for activations and weights, so that nothing overflows or becomes subnormal.
_SCALE = 0.1
# Of larger weights copies would drive each other out of the caches.
_CACHED_BYTES = 2**16

Array = NDArray[Any]


@final
@dataclass(frozen=True)
class Slot:
    """A tensor that an operator is given: its sizes, and what it was in the file, as far as it is a constant.

    Whole numbers that depend on widths are in `numbers`, one by one.
    """

    name: str
    sizes: tuple[Size, ...]
    sample: Array
    constant: bool
    numbers: tuple[Size, ...] | None = None

    @property
    def weight(self) -> bool:
        """Whether it is a constant that each copy can have for itself: floats that leave room in the caches."""
        floats = self.constant and self.sample.dtype.kind == "f"
        return floats and self.sample.size > 1 and self.sample.nbytes <= _CACHED_BYTES

    def fill(self, at: Mapping[Dimension, int], copy: int = 0) -> Array:
        """The tensor at these sizes: the one of the file where nothing changed, else noise; each copy has its own."""
        shape = tuple(_value(size, at) for size in self.sizes)
        if self.numbers is not None:
            numbers = [_value(number, at) for number in self.numbers]
            return np.array(numbers, self.sample.dtype).reshape(shape)
        if self.constant and shape == self.sample.shape and not (self.weight and copy):
            return self.sample
        if self.sample.dtype.kind == "f":
            return (_SCALE * np.random.default_rng(copy).standard_normal(shape)).astype(self.sample.dtype)
        return np.resize(self.sample, shape) if self.sample.size else np.zeros(shape, self.sample.dtype)


@final
@dataclass(frozen=True, eq=False)
class Operator:
    """A part of a file; `variables` are the dimensions that its time depends on, with their full sizes.

    `form` tells operators of another make apart.
    """

    nodes: tuple[onnx.NodeProto, ...]
    slots: tuple[Slot, ...]
    outputs: tuple[str, ...]
    # Of each node, by name of an attribute, numbers that depend on widths.
    counts: tuple[Mapping[str, tuple[Size, ...]], ...]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    variables: Mapping[Dimension, int]
    form: str

    def key(self, at: Mapping[Dimension, int]) -> str:
        """The same for operators that take the same time: of one form, with the same sizes."""
        sizes = [tuple(_value(size, at) for size in (*slot.sizes, *(slot.numbers or ()))) for slot in self.slots]
        return f"{self.form} {sizes}"

    def model(self, at: Mapping[Dimension, int], copies: int = 1) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The operator alone as a model, and its inputs; of several copies, side by side, the sums of their outputs.

        No copy is like another, so that no runtime computes one for all: they differ in weights, or else in inputs.
        """
        weighted = any(slot.weight and slot.sample.ndim > 1 for slot in self.slots)
        nodes, feed, constants = list[onnx.NodeProto](), dict[str, Array](), dict[str, Array]()
        for copy in range(copies):
            given = {}
            for slot in self.slots:
                own = copy if not slot.constant or slot.weight else 0
                shared = not own or (weighted and not slot.constant)
                given[slot.name] = slot.name if shared else f"{slot.name}.{copy}"
                where = constants if slot.constant else feed
                if given[slot.name] not in where:
                    where[given[slot.name]] = slot.fill(at, copy)
            nodes.extend(_renamed(node, given, copy) for node in self._at(at))
        sums = list(_sums(self.outputs, copies))
        graph = helper.make_graph(
            [*nodes, *sums],
            "operator",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in feed.items()
            ],
            # A type is not needed: the runtime infers it.
            [onnx.ValueInfoProto(name=f"{name}.sum{copies - 1}") for name in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        return helper.make_model(graph, opset_imports=self.opsets, ir_version=10), feed

    def _at(self, at: Mapping[Dimension, int]) -> Iterator[onnx.NodeProto]:
        """The nodes, with attributes that count channels, such as groups, as they are at these sizes."""
        for node, counts in zip(self.nodes, self.counts, strict=True):
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            for attribute in changed.attribute:
                if attribute.name in counts:
                    numbers = [_value(size, at) for size in counts[attribute.name]]
                    attribute.CopyFrom(
                        helper.make_attribute(
                            attribute.name, numbers if attribute.type == onnx.AttributeProto.INTS else numbers[0]
                        )
                    )
            yield changed


def _renamed(node: onnx.NodeProto, given: Mapping[str, str], copy: int) -> onnx.NodeProto:
    """A node of one copy."""
    for names in (node.input, node.output):
        for place, name in enumerate(names):
            names[place] = given.get(name, f"{name}.{copy}") if name else ""
    return node


def _sums(outputs: Sequence[str], copies: int) -> Iterator[onnx.NodeProto]:
    for name in outputs:
        yield helper.make_node("Identity", [f"{name}.0"], [f"{name}.sum0"])
        for copy in range(1, copies):
            yield helper.make_node("Add", [f"{name}.sum{copy - 1}", f"{name}.{copy}"], [f"{name}.sum{copy}"])


def split_file(graphs: Sequence[OnnxGraph], feed: Feed, book: SizeBook) -> tuple[Operator, ...] | None:
    """The operators of a file, given as it is at the full widths and at each of the book's sets of widths.

    None where the files have not the same nodes, so that widths change more than sizes, or nodes hold graphs of their
    own. Raises `runtime_failed`.
    """
    files = [_Values(graph, feed) for graph in graphs]
    nested = any(each.type == onnx.AttributeProto.GRAPH for node in files[0].nodes for each in node.attribute)
    if nested or len({tuple(node.op_type for node in file.nodes) for file in files}) > 1:
        return None
    return tuple(_make(files, nodes, book) for nodes in _parts(files[0]))


@final
class _Values:
    """The nodes of a file that run, and every tensor of one run."""

    def __init__(self, graph: OnnxGraph, feed: Feed) -> None:
        self.graph = graph
        self.nodes = [node for node in graph.nodes if node.output[0] not in graph.folded]
        constants = {name: numpy_helper.to_array(tensor) for name, tensor in graph.constants.items()}
        self.tensors = run_all(graph, feed) | constants

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known while the file is loaded; whole numbers are sizes, which are known as well."""
        if name in self.graph.constants or name in self.graph.folded:
            return True
        array = self.tensors[name]
        return name not in self.graph.inputs and array.dtype.kind in "iu" and array.size <= _MOST_NUMBERS


def _parts(file: _Values) -> list[list[int]]:
    """The positions of the nodes of each operator."""
    home: dict[str, int] = {}
    parts: list[list[int]] = [[]]
    for position, node in enumerate(file.nodes):
        if node.op_type in _PRODUCTS:
            parts.append([])
            part = len(parts) - 1
        else:
            part = max((home.get(name, 0) for name in node.input), default=0)
        parts[part].append(position)
        home |= dict.fromkeys(node.output, part)
    return [part for part in parts if part]


def _make(files: Sequence[_Values], positions: Sequence[int], book: SizeBook) -> Operator:
    first = files[0]
    inside = {name for position in positions for name in first.nodes[position].output if name}
    names, renamed = (f"t{number}" for number in count()), dict[str, str]()
    slots, nodes = list[Slot](), list[onnx.NodeProto]()
    for position in positions:
        node = onnx.NodeProto()
        node.CopyFrom(first.nodes[position])
        node.name = ""
        for place, name in enumerate(node.input):
            # One constant may stand for two that differ at other widths.
            if name and name not in inside and (name not in renamed or first.is_constant(name)):
                renamed[name] = next(names)
                found = [file.tensors[file.nodes[position].input[place]] for file in files]
                slots.append(_slot(renamed[name], found, book, constant=first.is_constant(name)))
            node.input[place] = renamed.get(name, "")
        for place, name in enumerate(node.output):
            if name:
                renamed[name] = next(names)
            node.output[place] = renamed.get(name, "")
        nodes.append(node)
    return Operator(
        nodes=tuple(nodes),
        slots=tuple(slots),
        outputs=tuple(renamed[name] for name in _leaving(first, positions, inside)),
        counts=tuple(_counts([file.nodes[position] for file in files], book) for position in positions),
        opsets=tuple(first.graph.model.opset_import),
        variables=_variables(slots, book),
        form=_form(nodes, slots),
    )


def _counts(nodes: Sequence[onnx.NodeProto], book: SizeBook) -> dict[str, tuple[Size, ...]]:
    """By name, the numbers of attributes that are not the same in all files."""
    found = {}
    for attribute in nodes[0].attribute:
        if attribute.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS):
            values = [helper.get_node_attr_value(node, attribute.name) for node in nodes]
            rows = list(zip(*(value if isinstance(value, list) else [value] for value in values), strict=True))
            if any(len(set(row)) > 1 for row in rows):
                found[attribute.name] = tuple(_known(row, book) for row in rows)
    return found


def _form(nodes: Sequence[onnx.NodeProto], slots: Sequence[Slot]) -> str:
    written = [node.SerializeToString(deterministic=True) for node in nodes]
    told = [f"{slot.name} {slot.sample.dtype} {slot.constant}".encode() for slot in slots]
    return hashlib.sha256(b"\n".join((*written, *told))).hexdigest()


def _leaving(file: _Values, positions: Sequence[int], inside: set[str]) -> Iterator[str]:
    """What others read of an operator, or the whole file gives; no whole numbers unless there is nothing else."""
    mine = set(positions)
    read = {name for position, node in enumerate(file.nodes) if position not in mine for name in node.input}
    leaving = [
        name
        for position in positions
        for name in file.nodes[position].output
        if name in inside & (read | set(file.graph.outputs))
    ]
    yield from [name for name in leaving if not file.is_constant(name)] or leaving


def _slot(name: str, found: Sequence[Array], book: SizeBook, *, constant: bool) -> Slot:
    """What no dimension explains keeps the size that it has in the whole network."""
    sample = found[0]
    if len({array.ndim for array in found}) > 1:
        return Slot(name, sample.shape, sample, constant)
    sizes = tuple(_known(row, book) for row in zip(*(array.shape for array in found), strict=True))
    numbers = None
    if constant and sample.dtype.kind in "iu" and sample.size <= _MOST_NUMBERS and sample.shape == found[-1].shape:
        rows = zip(*(array.ravel().tolist() for array in found), strict=True)
        numbers = tuple(_known(row, book) for row in rows)
    return Slot(name, sizes, sample, constant, numbers)


def _known(row: Sequence[int], book: SizeBook) -> Size:
    found = book.find(row)
    return row[0] if found is None else found


def _variables(slots: Sequence[Slot], book: SizeBook) -> dict[Dimension, int]:
    """The axes that sizes depend on, or the sizes themselves where they are fewer, as of what joins many parts."""
    bases = {
        size.base: None for slot in slots for size in (*slot.sizes, *(slot.numbers or ())) if isinstance(size, Scaled)
    }
    axes: dict[Dimension, None] = {axis: None for base in bases for axis in leaves(base) if axis in book.axes}
    return {each: size_of(each, {}) for each in (axes if len(axes) <= len(bases) else bases)}


def _value(size: Size, at: Mapping[Dimension, int]) -> int:
    return size.at(at) if isinstance(size, Scaled) else size
