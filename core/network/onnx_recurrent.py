"""Stored weights of recurrent ONNX nodes, in the form of torch's cells: for each direction, gates in torch's order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from core.errors import ModelpressError
from core.network.onnx_operators.recurrent import GATES
from core.network.onnx_steps import Array, Step

# Inputs of the standard: x, w, r, b, lengths, states; the last of LSTM are its peepholes.
_WEIGHTS, _BIAS, _LENGTHS, _STATES = (1, 2), 3, 4, {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_PEEPHOLES = 7
_LEAVES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def split_weights(steps: Sequence[Step], constants: dict[str, Array]) -> list[Step]:
    """The steps with recurrent ones on torch's weights, which are added to `constants`."""
    return [
        _split(step, constants)
        if step.call.operator in GATES
        else replace(step, branches=tuple(_split_branch(branch, constants) for branch in step.branches))
        for step in steps
    ]


def _split_branch(steps: Sequence[Step], constants: dict[str, Array]) -> tuple[Step, ...]:
    """The same inside of an If; what cannot be read is refused only where it runs."""
    made = []
    for step in steps:
        try:
            made.extend(split_weights([step], constants))
        except ModelpressError as error:
            made.append(replace(step, refusal=error))
    return tuple(made)


def leaves(operator: str) -> Mapping[int, str]:
    """Where a step that was split has its weights, and what torch calls them."""
    first = 2 + len(_STATES[operator])
    names = [f"{leaf}{suffix}" for suffix in ("", "_reverse") for leaf in _LEAVES]
    return {first + index: name for index, name in enumerate(names)}


def _split(step: Step, constants: dict[str, Array]) -> Step:
    call = step.call
    given = [*step.inputs, *[""] * (8 - len(step.inputs))]
    if any(given[position] not in constants for position in _WEIGHTS) or (given[_BIAS] not in {"", *constants}):
        call.refuse("its weights are computed")
    if given[_PEEPHOLES]:
        call.refuse("it has peepholes")
    w, r = (constants[given[position]] for position in _WEIGHTS)
    if w.ndim != 3 or r.ndim != 3 or w.shape[:2] != r.shape[:2] or w.shape[1] != len(GATES[call.operator]) * r.shape[2]:
        call.refuse("its weights do not fit together")
    bias = constants[given[_BIAS]] if given[_BIAS] else np.zeros((w.shape[0], 2 * w.shape[1]), np.float32)
    names = []
    for direction in range(w.shape[0]):
        parts = (w[direction], r[direction], *np.split(bias[direction], 2))
        for leaf, part in zip(_LEAVES, parts, strict=True):
            name = f"{given[1]}/{leaf}{'_reverse' if direction else ''}"
            constants[name] = _reorder(call.operator, part)
            names.append(name)
    states = [given[position] for position in _STATES[call.operator]]
    inputs = [given[0], given[_LENGTHS], *states, *names]
    node = onnx.NodeProto(op_type=call.operator, name=step.node.name, input=inputs, output=step.node.output)
    return replace(step, node=node, inputs=tuple(inputs))


def _reorder(operator: str, weight: Array) -> Array:
    """The gates, which lie one after the other, in torch's order."""
    gates = np.split(weight, len(GATES[operator]))
    return np.ascontiguousarray(np.concatenate([gates[index] for index in GATES[operator]]))
