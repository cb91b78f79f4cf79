"""Recurrent calls in ONNX: how torch's exporter writes those that tracing leaves whole."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset20
from onnxscript.function_libs.torch_lib.ops.core import aten_gru, aten_lstm

# Their operators.
import core.network.recurrent_calls  # noqa: F401

# Its own types leave out the Python numbers that it takes.
onnx_op: Any = opset20


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
