"""Recurrent calls that tracing leaves whole: torch would run them step by step, and bake the number of steps in."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from onnxscript import opset20
from onnxscript.function_libs.torch_lib.ops.core import aten_gru, aten_lstm
from torch import Tensor, fx
from torch.fx.node import Target
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
# Its own types leave out the Python numbers that it takes.
onnx_op: Any = opset20
# Each of torch's calls, what it is in a graph, and under which name it stands in a graph while that is traced.
_CALLS = (
    (torch.lstm, aten.lstm.input, "lstm"),
    (torch.gru, aten.gru.input, "gru"),
    (torch.rnn_tanh, aten.rnn_tanh.input, "rnn_tanh"),
    (torch.rnn_relu, aten.rnn_relu.input, "rnn_relu"),
)
_WHOLE: dict[object, Callable[..., object]] = {}
_PLAIN: dict[object, Target] = {}


def _shapes(x: Tensor, hx: Tensor | list[Tensor], *options: object) -> tuple[Tensor, ...]:
    """What a call gives: the outputs of all steps, and each state as it was put in."""
    states = hx if isinstance(hx, list) else [hx]
    directions = 2 if options[5] else 1
    made = x.new_empty((*x.shape[:2], states[0].shape[2] * directions))
    return (made, *(torch.empty_like(state) for state in states))


for _call, _operator, _name in _CALLS:
    _signature = str(_operator._schema).partition("(")[2]
    torch.library.define(f"modelpress::{_name}", f"({_signature}")
    torch.library.impl(f"modelpress::{_name}", "CompositeExplicitAutograd", _operator)
    torch.library.register_fake(f"modelpress::{_name}", _shapes)
    _whole = getattr(torch.ops.modelpress, _name).default
    _WHOLE[_call] = _whole
    _PLAIN[_whole] = _operator


def _onnx_rnn(activation, x, hx, params, has_biases, num_layers, _dropout, _train, bidirectional, batch_first):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  torch fixes the signature, and onnxscript's values have no public type
    directions, each = (2 if bidirectional else 1), (4 if has_biases else 2)
    x = onnx_op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    lasts = []
    for layer in range(0, num_layers * directions, directions):
        own = [params[index * each : (index + 1) * each] for index in range(layer, layer + directions)]
        w, r = (onnx_op.Concat(*(onnx_op.Unsqueeze(one[i], [0]) for one in own), axis=0) for i in (0, 1))
        biases = [onnx_op.Unsqueeze(onnx_op.Concat(*one[2:], axis=0), [0]) for one in own if has_biases]
        y, last = onnx_op.RNN(
            x,
            w,
            r,
            onnx_op.Concat(*biases, axis=0) if biases else None,
            None,
            onnx_op.Slice(hx, [layer], [layer + directions], [0]),
            activations=[activation] * directions,
            direction="bidirectional" if bidirectional else "forward",
            hidden_size=own[0][1].shape[1],
        )
        # (steps, directions, batch, hidden) → (steps, batch, directions·hidden)
        x = onnx_op.Reshape(onnx_op.Transpose(y, perm=[0, 2, 1, 3]), onnx_op.Constant(value_ints=[0, 0, -1]))
        lasts.append(last)
    x = onnx_op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    return x, onnx_op.Concat(*lasts, axis=0)


def _onnx_rnn_tanh(x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  as above
    return _onnx_rnn("Tanh", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)  # type: ignore[no-untyped-call]


def _onnx_rnn_relu(x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  as above
    return _onnx_rnn("Relu", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)  # type: ignore[no-untyped-call]


# How the exporter writes them; of its own it writes a plain RNN only step by step.
TRANSLATIONS: Mapping[Callable[..., object], Callable[..., object]] = {
    torch.ops.modelpress.lstm.default: aten_lstm,
    torch.ops.modelpress.gru.default: aten_gru,
    torch.ops.modelpress.rnn_tanh.default: _onnx_rnn_tanh,
    torch.ops.modelpress.rnn_relu.default: _onnx_rnn_relu,
}


class WholeRecurrent(TorchFunctionMode):
    """While this is entered, recurrent calls are traced as one node each; `restore_calls` makes them torch's again."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Route one call of torch."""
        del types
        return _WHOLE.get(func, func)(*args, **(kwargs or {}))


def restore_calls(graph: fx.Graph) -> None:
    """Make the recurrent calls of a traced graph torch's own."""
    for node in graph.nodes:
        node.target = _PLAIN.get(node.target, node.target)
