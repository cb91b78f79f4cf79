"""Recurrent ONNX operators, as the cells of torch.

Weights are (directions, gates·hidden, inputs) with gates in the standard's order; torch has its own order, and a
weight for each direction. `core.network.onnx_recurrent` has put stored weights in that form before a node runs.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from core.network.onnx_operators.call import Call, Operator

# Where torch's gates are among those of the standard: LSTM i o f c → i f c o, GRU z r h → r z h.
GATES: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
# Inputs: x, then for each direction the weights of inputs, of states, and both biases.
PER_DIRECTION = 4
# A cell that torch does not have is written out, which makes a graph of some calls for each step.
MAX_STEPS = 512


def run_recurrent(call: Call, x: Tensor, lengths: Tensor | None, *others: Tensor | None) -> tuple[Tensor, ...]:
    """LSTM, GRU or RNN; `others` are the initial states (two of LSTM, else one) and then the weights of torch."""
    _check(call, lengths)
    states, weights = _states_and_weights(call, others)
    backward = call.text("direction", "forward") == "reverse"
    directions = len(weights) // PER_DIRECTION
    first = bool(call.integer("layout", 0))
    x = x.transpose(0, 1) if first else x
    hidden = weights[1].shape[1]
    initial = [
        x.new_zeros(directions, x.shape[1], hidden) if state is None else state.transpose(0, 1) if first else state
        for state in states
    ]
    if lengths is None and not _resets_first(call):
        made, *last = _cell(call, x.flip(0) if backward else x, initial, weights)
        made = made.flip(0) if backward else made
    else:
        made, *last = _by_direction(call, x, lengths, initial, weights)
    # (steps, batch, directions·hidden) → (steps, directions, batch, hidden), by no size that tracing would bake in.
    made = torch.stack(made.chunk(directions, -1), 1)
    if first:
        return (made.permute(2, 0, 1, 3), *(each.transpose(0, 1) for each in last))[: call.outputs]
    return (made, *last)[: call.outputs]


def _by_direction(
    call: Call, x: Tensor, lengths: Tensor | None, initial: list[Tensor], weights: list[Tensor]
) -> list[Tensor]:
    """The outputs of all steps, (steps, batch, directions·hidden), and the last states, one direction by itself."""
    backward = call.text("direction", "forward") == "reverse"
    results = []
    for index in range(len(weights) // PER_DIRECTION):
        own = weights[index * PER_DIRECTION : (index + 1) * PER_DIRECTION]
        states = [state.narrow(0, index, 1) for state in initial]
        turn = backward or index == 1
        if lengths is not None:
            results.append(_run_lengths(call, x, lengths, states, own, turn=turn))
        else:
            made, *last = _cell(call, x.flip(0) if turn else x, states, own)
            results.append((made.flip(0) if turn else made, *last))
    outputs, *lasts = zip(*results, strict=True)
    return [torch.cat(outputs, -1), *(torch.cat(last, 0) for last in lasts)]


def _run_lengths(
    call: Call, x: Tensor, lengths: Tensor, initial: list[Tensor], weights: list[Tensor], *, turn: bool
) -> tuple[Tensor, ...]:
    """One direction over sequences (steps, batch, inputs) of lengths of their own: zeros after each one's last step."""
    ends = lengths.to(torch.int64).unsqueeze(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    alive = (steps < ends).unsqueeze(2)
    # Backward each sequence begins at its own end.
    order = torch.where(steps < ends, ends - 1 - steps, steps).unsqueeze(2)
    made = _cell(call, x.gather(0, order.expand(x.shape)) if turn else x, initial, weights)[0]
    made = torch.where(alive, made, torch.zeros_like(made))
    final = (ends - 1).clamp(min=0).unsqueeze(2).expand(1, *made.shape[1:])
    last = made.gather(0, final)
    if turn:
        made = made.gather(0, order.expand(made.shape))
    # Of a cell's memory torch gives the last only; `_check` has seen that it is not asked for.
    return (made, last, last)[: len(initial) + 1]


def _cell(call: Call, x: Tensor, initial: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, ...]:
    two = len(weights) > PER_DIRECTION
    if call.operator == "LSTM":
        return cast("tuple[Tensor, ...]", torch.lstm(x, initial, weights, True, 1, 0.0, False, two, False))
    if _resets_first(call):
        return _run_reset_first(call, x, initial[0][0], weights)
    run = torch.gru
    if call.operator == "RNN":
        run = torch.rnn_relu if _activations(call)[:1] == ["relu"] else torch.rnn_tanh
    return cast("tuple[Tensor, ...]", run(x, initial[0], weights, True, 1, 0.0, False, two, False))


def _run_reset_first(call: Call, x: Tensor, h: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A GRU that resets its state before the product, which no cell of torch does, written out step by step.

    Of the equations of Cho et al. 2014 (arXiv:1406.1078), section 2.3.
    """
    steps, hidden = x.shape[0], h.shape[-1]
    if not isinstance(steps, int) or steps > MAX_STEPS:
        call.refuse(
            "it resets before the product (linear_before_reset = 0), which is written out step by step, and "
            f"its length is {'free' if not isinstance(steps, int) else steps}; export it with a fixed length of "
            f"at most {MAX_STEPS}, or with linear_before_reset = 1 as torch and Keras do"
        )
    w_ih, w_hh, b_ih, b_hh = weights
    gates = functional.linear(x, w_ih, b_ih)
    made = []
    for step in range(steps):
        both, new = gates[step, :, : 2 * hidden], gates[step, :, 2 * hidden :]
        reset, keep = torch.sigmoid(both + functional.linear(h, w_hh[: 2 * hidden], b_hh[: 2 * hidden])).chunk(2, -1)
        new = torch.tanh(new + functional.linear(reset * h, w_hh[2 * hidden :], b_hh[2 * hidden :]))
        h = (1 - keep) * new + keep * h
        made.append(h)
    return torch.stack(made), h.unsqueeze(0)


def _resets_first(call: Call) -> bool:
    return call.operator == "GRU" and not call.integer("linear_before_reset", 0)


def _states_and_weights(call: Call, others: tuple[Tensor | None, ...]) -> tuple[list[Tensor | None], list[Tensor]]:
    count = 2 if call.operator == "LSTM" else 1
    return list(others[:count]), [weight for weight in others[count:] if weight is not None]


def _activations(call: Call) -> list[str]:
    named = call.attributes.get("activations")
    return [str(name).lower() for name in named] if isinstance(named, list) else []


def _check(call: Call, lengths: Tensor | None) -> None:
    """Refuse what torch's cells do not compute."""
    if lengths is not None and call.operator == "LSTM" and call.outputs > 2:
        call.refuse("its sequences have lengths of their own, and its last cell state (output Y_c) is asked for")
    if call.number("clip", 0.0):
        call.refuse("it clips its sums")
    if call.integer("input_forget", 0):
        call.refuse("it couples its gates")
    names = _activations(call)
    usual = _USUAL.get(call.operator)
    fits = (
        names == usual * (len(names) // len(usual)) if usual else len(set(names)) < 2 and set(names) <= {"tanh", "relu"}
    )
    if not fits:
        call.refuse(f"its activations are {', '.join(names)}")


RECURRENT: Mapping[str, Operator] = {name: Operator(run_recurrent) for name in GATES}
