"""Recurrent ONNX operators, as the cells of torch.

Weights are (directions, gates·hidden, inputs) with gates in the standard's order; torch has its own order, and a
weight for each direction. `core.network.onnx_recurrent` has put stored weights in that form before a node runs.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator

# Where torch's gates are among those of the standard: LSTM i o f c → i f c o, GRU z r h → r z h.
GATES: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
# Inputs: x, then for each direction the weights of inputs, of states, and both biases.
PER_DIRECTION = 4


def run_recurrent(call: Call, x: Tensor, lengths: Tensor | None, *others: Tensor | None) -> tuple[Tensor, ...]:
    """LSTM, GRU or RNN; `others` are the initial states (two of LSTM, else one) and then the weights of torch."""
    _check(call, lengths)
    states, weights = _states_and_weights(call, others)
    backward = call.text("direction", "forward") == "reverse"
    directions = len(weights) // PER_DIRECTION
    first = bool(call.integer("layout", 0))
    x = x.transpose(0, 1) if first else x
    x = x.flip(0) if backward else x
    hidden = weights[1].shape[1]
    initial = [
        x.new_zeros(directions, x.shape[1], hidden) if state is None else state.transpose(0, 1) if first else state
        for state in states
    ]
    made, *last = _cell(call, x, initial, weights)
    made = made.flip(0) if backward else made
    # (steps, batch, directions·hidden) → (steps, directions, batch, hidden)
    made = made.reshape(*made.shape[:2], directions, hidden).transpose(1, 2)
    if first:
        return (made.permute(2, 0, 1, 3), *(each.transpose(0, 1) for each in last))[: call.outputs]
    return (made, *last)[: call.outputs]


def _cell(call: Call, x: Tensor, initial: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, ...]:
    two = len(weights) > PER_DIRECTION
    if call.operator == "LSTM":
        return cast("tuple[Tensor, ...]", torch.lstm(x, initial, weights, True, 1, 0.0, False, two, False))
    run = torch.gru
    if call.operator == "RNN":
        run = torch.rnn_relu if _activations(call)[:1] == ["relu"] else torch.rnn_tanh
    return cast("tuple[Tensor, ...]", run(x, initial[0], weights, True, 1, 0.0, False, two, False))


def _states_and_weights(call: Call, others: tuple[Tensor | None, ...]) -> tuple[list[Tensor | None], list[Tensor]]:
    count = 2 if call.operator == "LSTM" else 1
    return list(others[:count]), [weight for weight in others[count:] if weight is not None]


def _activations(call: Call) -> list[str]:
    named = call.attributes.get("activations")
    return [str(name).lower() for name in named] if isinstance(named, list) else []


def _check(call: Call, lengths: Tensor | None) -> None:
    """Refuse what torch's cells do not compute."""
    if lengths is not None:
        call.refuse("its sequences have lengths of their own")
    if call.number("clip", 0.0):
        call.refuse("it clips its sums")
    if call.integer("input_forget", 0):
        call.refuse("it couples its gates")
    if call.operator == "GRU" and not call.integer("linear_before_reset", 0):
        call.refuse("it resets before the product (linear_before_reset = 0)")
    names = _activations(call)
    usual = _USUAL.get(call.operator)
    fits = (
        names == usual * (len(names) // len(usual)) if usual else len(set(names)) < 2 and set(names) <= {"tanh", "relu"}
    )
    if not fits:
        call.refuse(f"its activations are {', '.join(names)}")


RECURRENT: Mapping[str, Operator] = {name: Operator(run_recurrent) for name in GATES}
