"""Recurrent layers: how ATen's calls of LSTM, GRU and plain RNN become `nn` layers, and where their results are."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import fx, nn

from core.errors import ModelpressError

aten = torch.ops.aten
RECURRENT: Mapping[object, type[nn.RNNBase]] = {
    aten.lstm.input: nn.LSTM,
    aten.gru.input: nn.GRU,
    aten.rnn_tanh.input: nn.RNN,
    aten.rnn_relu.input: nn.RNN,
}


def build_recurrent(
    node: fx.Node, arguments: Mapping[str, object], weights: Sequence[torch.Tensor]
) -> tuple[nn.RNNBase, list[str]]:
    """The layer of a call, without weights, and the names that its weights have in it, in their order."""
    if arguments["train"] and arguments["dropout"]:
        raise ModelpressError(
            "unsupported_graph",
            f"Node {node.name} is a recurrent layer in training mode.",
            hint="Call `model.eval()` before exporting.",
            node=node.name,
        )
    kind = RECURRENT[node.target]
    per_direction = len(weights) // (cast("int", arguments["num_layers"]) * (2 if arguments["bidirectional"] else 1))
    if kind is nn.LSTM and per_direction in (3, 5):
        raise ModelpressError(
            "unsupported_operator",
            f"Node {node.name} is an LSTM with a projection (proj_size), which ONNX has no operator for.",
            node=node.name,
        )
    options = {"nonlinearity": "relu"} if node.target is aten.rnn_relu.input else {}
    gates = {nn.LSTM: 4, nn.GRU: 3}.get(kind, 1)
    layer = kind(
        weights[0].shape[1],  # type: ignore[arg-type]  # the subclasses take the sizes, the base the mode first
        weights[0].shape[0] // gates,
        num_layers=cast("int", arguments["num_layers"]),
        bias=bool(arguments["has_biases"]),
        batch_first=bool(arguments["batch_first"]),
        bidirectional=bool(arguments["bidirectional"]),
        device="meta",
        **options,  # type: ignore[arg-type]  # only plain RNN layers take this one
    )
    return layer, list(layer._flat_weights_names)


def result_path(call: fx.Node, index: int) -> tuple[int, ...]:
    """Where the layer has the `index`-th result of the ATen call: an LSTM keeps its states in a pair."""
    return (1, index - 1) if call.target is aten.lstm.input and index else (index,)
