"""Writes encodings as plain ONNX that a stock onnxruntime folds to one float constant while it loads.

Codes are not taken apart one by one: a byte (or some more bits, where a code has several planes) selects a row of a
table that holds all values of its codes. Folding goes over the graph several times and keeps whatever it computes until
a round is done, so memory while loading is the sum of the steps of a round; rows keep the steps few and their integers
small, weights wait for different rounds, and stages end rounds.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from core.network.encodings.packing import BYTE, PLANES, Packed
from core.network.encodings.writer import Role, Writer

_INT = TensorProto.INT32
_SMALL = {torch.int8: TensorProto.INT8, torch.uint8: TensorProto.UINT8}
# Below any rank, and any place.
_NO_RANK = _NO_PLACE = -(2**30)


@final
class OnnxWriter(Writer[str]):
    """Collects nodes and initializers; values are their names. Integers are int32."""

    def __init__(self, names: Iterator[str]) -> None:
        super().__init__()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names = names
        self._parameter = ""
        self._staged = False
        self._start = 0
        # What each constant is called once it has waited for its round.
        self._stored: dict[tuple[str, str, str], str] = {}
        self._kinds: dict[str, int] = {}
        self._shared: dict[object, str] = {}

    def begin(self, parameter: str, *, staged: bool = False, start: int = 0) -> None:
        """Name what follows after this parameter; both others save memory while loading and take some more nodes.

        `staged` spreads the steps of the weight over rounds; it is begun in the round `start`.
        """
        self._parameter = parameter
        self._staged = staged
        self._start = start

    def constant(self, suffix: str, role: Role, value: Tensor) -> str:
        """An initializer whose name ends with its role, so that bytes can be itemised.

        The main one is named after the parameter; in a small file long names of all others would be felt.
        """
        key = (self._parameter, self._prefix, suffix)
        # Several books are looked up twice.
        if key not in self._stored:
            name = self._parameter if not (suffix or self._prefix) else next(self._names)
            # What is a weight at sight bears the parameter's own name.
            plain = role == "weights" and value.dim() > 1 and not self._prefix and value.dtype is not torch.uint8
            name = name if plain and not suffix else f"{name}/{role}"
            self._add(_tensor(value.detach().contiguous(), name))
            # All that is large is computed from codes.
            waits = self._start and role in ("weights", "indices")
            self._stored[key] = self._end_round(name, self._clock(self._start - 1)) if waits else name
        return self._stored[key]

    def look_up(self, codes: Packed, suffix: str, role: Role, table: str, shape: Sequence[int]) -> str:
        """Rows of a table of values, selected by the bits of the codes that lie together."""
        if codes.bits == 8:
            plane = self.constant(suffix, role, codes.planes[0].reshape(tuple(shape)))
            return self.pick(table, self._cast(plane, _INT))
        words = self._words(codes, suffix, role)
        rows = self._rows(table, codes.bits)
        values = self._node("Gather", rows, words)
        if codes.count != codes.planes[0].numel() * codes.together:
            flat = self.reshape(values, (-1,))
            values = self._node("Slice", flat, self._integers([0]), self._integers([codes.count]))
            if tuple(shape) == (codes.count,):
                return values
        return self.reshape(values, shape)

    def _rows(self, table: str, bits: int) -> str:
        """Of every word the values of its codes."""
        key = ("rows", table, bits)
        if key not in self._shared:
            self._shared[key] = self._node("Gather", table, self._digits(bits))
        return self._shared[key]

    def ranks(self, bits: Packed, suffix: str, role: Role) -> str:
        """Counts of the bytes before, and of the bits before within a byte: int32, shape (bytes, 8)."""
        counts, inner = self._ranks_in_bytes()
        stored = self._cast(self.constant(suffix, role, bits.planes[0]), _INT)
        of_bytes = self._node("Gather", counts, stored)
        before = self.reshape(self.subtract(self.running_sum(of_bytes), of_bytes), (-1, 1))
        found = self.settle(self.add(self._node("Gather", inner, stored), before))
        return self._node("Max", found, self._array(np.array(0, np.int32)))

    def _ranks_in_bytes(self) -> tuple[str, str]:
        """How many bits each byte has, shape (256,), and their ranks, negative where a bit is not set: (256, 8)."""
        key = "ranks"
        if key not in self._shared:
            bits, none = self._digits(1), self._array(np.array(_NO_RANK, np.int32))
            counted = self._node("CumSum", bits, self._array(np.array(1, np.int32)))
            ranked = self._node("Mul", self._node("Sub", counted, none), bits)
            self._shared[key] = self._node("Add", ranked, none)
        return self._node("ReduceSum", self._digits(1), self._integers([1]), keepdims=0), self._shared[key]

    def places(self, bits: Packed, suffix: str, role: Role, count: int, *, factor: int) -> str:
        """The largest once all that stands at a 0 is made very small: TopK. onnxruntime does not fold a NonZero."""
        whole = Packed(1, bits.size * BYTE, bits.planes)
        far = self.look_up(whole, suffix, role, self.levels(_NO_PLACE, 2, step=-_NO_PLACE, integer=True), (-1,))
        every = self.settle(self.add(far, self.levels(0, whole.count, step=factor, integer=True)))
        found = self._node("TopK", every, self._integers([count]))
        # Where each of them stood is of no use.
        self.nodes[-1].output.append(next(self._names))
        return found

    def settle(self, value: str) -> str:
        """The end of a round, if it is staged."""
        return self._end_round(value, value) if self._staged else value

    def _clock(self, start: int) -> str:
        """A number that is known in the round `start`."""
        if not start:
            return self._array(np.array([1], np.int32))
        key = ("clock", start)
        if key not in self._shared:
            before = self._clock(start - 1)
            self._shared[key] = self._end_round(before, before)
        return self._shared[key]

    def _end_round(self, value: str, known: str) -> str:
        """The value in the round after `known` is: an If that is always true, whose other branch leaves its shape open.

        onnxruntime puts the branch in its place and does not fold what has an open shape in the same round; before the
        next, of at most ten, it infers shapes anew and drops what nothing needs any more.
        """
        then, other = (next(self._names) for _ in range(2))
        kind = self._kinds[value]
        zero = helper.make_tensor("", kind, (), [0])
        nodes = {
            "then_branch": helper.make_node("Identity", [value], [then]),
            "else_branch": helper.make_node("Constant", [], [other], value=zero),
        }
        branches = {
            name: helper.make_graph([node], name[:4], [], [helper.make_tensor_value_info(node.output[0], kind, None)])
            for name, node in nodes.items()
        }
        made = self._node("If", self._cast(self._node("Size", known), TensorProto.BOOL), **branches)
        self._kinds[made] = kind
        return made

    def trim(self, value: str, size: int) -> str:
        """Reshape, Slice."""
        if size % BYTE == 0:
            return value
        return self._node("Slice", self.reshape(value, (-1,)), self._integers([0]), self._integers([size]))

    def _words(self, codes: Packed, suffix: str, role: Role) -> str:
        """For each byte of the first plane, it and the bits of the other planes that belong to its codes."""
        key = ("words", self._parameter, self._prefix, suffix)
        if key in self._shared:
            return self._shared[key]
        # Of each plane the bytes that share words lie in a row: (…, 2) where the first has two, so that shapes agree.
        together = codes.together
        twos = (2,) * ((BYTE // (PLANES[codes.bits][-1] * together)).bit_length() - 1)
        word, offset = "", 0
        for number, (width, plane) in enumerate(zip(PLANES[codes.bits], codes.planes, strict=True)):
            served = BYTE // (width * together)
            doubled = served.bit_length() - 1
            shaped = plane.reshape(-1, *twos[doubled:])
            stored = self.constant(f"{suffix}_{number}".strip("_") if number else suffix, role, shaped)
            if number:
                # A byte of a narrower plane serves several words.
                shares = self.reshape(self._shares(width * together, offset), (256, *twos[:doubled]))
                word = self._node("BitwiseOr", word, self._node("Gather", shares, self._cast(stored, _INT)))
            else:
                # Words have 14 bits at most.
                word = self._cast(stored, TensorProto.INT16) if len(codes.planes) > 1 else stored
            offset += width * together
        word = self.settle(word) if len(codes.planes) > 1 else word
        self._shared[key] = self._cast(word, _INT)
        return self._shared[key]

    def _shares(self, width: int, offset: int) -> str:
        """For every byte its parts of `width` bits, moved up by `offset` bits: int16, shape (256, 8 / width)."""
        key = ("shares", width, offset)
        if key not in self._shared:
            columns = self._column(256)
            self._shared[key] = self._cast(self._bits(columns, range(0, 8, width), width, offset), TensorProto.INT16)
        return self._shared[key]

    def _digits(self, bits: int) -> str:
        """For every word its codes: int32, shape (2^(bits · codes), codes)."""
        key = ("digits", bits)
        if key not in self._shared:
            together = 8 // PLANES[bits][0]
            words = self._column(2 ** (bits * together))
            found, offset, base = "", 0, 0
            for width in PLANES[bits]:
                shifts = range(offset, offset + width * together, width)
                part = self._bits(words, shifts, width, base)
                found = self._node("Add", found, part) if found else part
                offset, base = offset + width * together, base + width
            self._shared[key] = found
        return self._shared[key]

    def _column(self, count: int) -> str:
        """0, 1, … one below the other."""
        key = ("column", count)
        if key not in self._shared:
            self._shared[key] = self.reshape(self.levels(0, count, integer=True), (-1, 1))
        return self._shared[key]

    def _bits(self, values: str, shifts: Sequence[int], width: int, base: int) -> str:
        """(value >> shift) & (2^width − 1) << base, for each shift a column; by division, since all readers know it."""
        moved = self._node("Div", values, self._array(np.array([2**shift for shift in shifts], np.int32)))
        found = self._node("Mod", moved, self._array(np.array(2**width, np.int32)))
        return self._node("Mul", found, self._array(np.array(2**base, np.int32))) if base else found

    def levels(self, low: int, count: int, *, step: int = 1, integer: bool = False) -> str:
        """Range, cast; a constant for a single integer."""
        if integer and count == 1:
            return self._array(np.array([low], np.int32))
        key = ("levels", low, count, step, integer)
        if key not in self._shared:
            ends = [self._array(np.array(end, np.int64)) for end in (low, low + count * step, step)]
            # Cast, since not all readers keep other types of a Range.
            self._shared[key] = self._cast(self._node("Range", *ends), _INT if integer else TensorProto.FLOAT)
        return self._shared[key]

    def byte_levels(self, low: int, count: int) -> str:
        """Range, cast."""
        key = ("bytes", low, count)
        if key not in self._shared:
            kind = TensorProto.INT8 if low < 0 else TensorProto.UINT8
            self._shared[key] = self._cast(self.levels(low, count, integer=True), kind)
        return self._shared[key]

    def floats(self, value: str) -> str:
        """Cast."""
        return self._cast(value, TensorProto.FLOAT)

    def integers(self, value: str) -> str:
        """Cast to int32."""
        return self._cast(value, _INT)

    def small(self, value: str, dtype: torch.dtype) -> str:
        """Cast to int8 or uint8."""
        return self._cast(value, _SMALL[dtype])

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """Reshape."""
        # One size is left to be inferred: it keeps the shape open where the value's is (see `settle`).
        sizes = shape if -1 in shape or 0 in shape or not shape else (-1, *shape[1:])
        return self._node("Reshape", value, self._integers(sizes))

    def add(self, value: str, other: str) -> str:
        """Add."""
        return self._node("Add", value, other)

    def subtract(self, value: str, other: str) -> str:
        """Sub."""
        return self._node("Sub", value, other)

    def multiply(self, value: str, other: str) -> str:
        """Mul."""
        return self._node("Mul", value, other)

    def product(self, left: str, right: str) -> str:
        """MatMul."""
        return self._node("MatMul", left, right)

    def pick(self, table: str, index: str) -> str:
        """Gather."""
        return self._node("Gather", table, index)

    def zero_first(self, value: str, rows: int | None, *, integer: bool) -> str:
        """Concat."""
        shape = (1,) if rows is None else (rows, 1)
        zeros = self._array(np.zeros(shape, np.int32 if integer else np.float32))
        return self._node("Concat", zeros, value, axis=len(shape) - 1)

    def running_sum(self, value: str) -> str:
        """CumSum."""
        return self._node("CumSum", value, self._array(np.array(0, np.int32)))

    def scatter(self, values: str, places: str, size: int, *, integer: bool) -> str:
        """ScatterElements into a constant of zeros."""
        key = ("zeros", size, integer)
        if key not in self._shared:
            # Zeros in floats go without saying.
            said = {"value": numpy_helper.from_array(np.zeros(1, np.int32))} if integer else {}
            self._shared[key] = self._node("ConstantOfShape", self._integers([size]), **said)
            self._kinds[self._shared[key]] = _INT if integer else TensorProto.FLOAT
        return self._node("ScatterElements", self._shared[key], places, values)

    def _cast(self, value: str, kind: int) -> str:
        return self._node("Cast", value, to=kind)

    def _integers(self, numbers: Sequence[int]) -> str:
        return self._array(np.array(list(numbers), np.int64))

    def _array(self, value: np.ndarray) -> str:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._shared:
            name = next(self._names)
            self._add(numpy_helper.from_array(value, name))
            self._shared[key] = name
        return self._shared[key]

    def _add(self, tensor: onnx.TensorProto) -> None:
        self._kinds[tensor.name] = tensor.data_type
        self.initializers.append(tensor)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = next(self._names)
        # Of all operators but a few the result has the type of the first input.
        self._kinds[name] = attributes.get("to", self._kinds[inputs[0]])
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name


def _tensor(value: Tensor, name: str) -> onnx.TensorProto:
    if value.dtype is not torch.bfloat16:
        return numpy_helper.from_array(value.numpy(), name)
    # numpy has no such numbers.
    raw = value.view(torch.int16).numpy().astype("<i2").tobytes()
    return helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, raw, raw=True)
