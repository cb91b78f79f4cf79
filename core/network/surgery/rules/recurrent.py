"""LSTM, GRU and plain recurrent layers, as layers and as calls."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from core.network.surgery.call import Call, Site, Size, Value
from core.network.surgery.dimensions import Cat, Dimension, Dims, Misfit, fixed, resolve

_GATES = {"LSTM": 4, "GRU": 3}


def recur(call: Call) -> Value:
    """Gates are one behind the other; one hidden index for all layers, since their states are one tensor."""
    if call.layer is None:
        # A call with computed weights.
        raise Misfit
    layer = cast("nn.RNNBase", call.layer)
    x = call.source()
    if len(x) != 3:
        raise Misfit
    weights = [call.ledger.dims_of(cast("Tensor", weight)) for weight in layer._flat_weights]
    directions = 2 if layer.bidirectional else 1
    hidden = weights[1][1]
    out = _tie_weights(call, layer, weights, x[-1])
    states = call.ledger.value_of(call.node.args[1]) if len(call.node.args) > 1 else None
    for state in _flat(states):
        call.tie(hidden, state[-1])

    def change(site: Site, size_: Size) -> None:
        copy = cast("nn.RNNBase", site.layer)
        copy.hidden_size, copy.input_size = size_(hidden), size_(x[-1])

    call.edit([hidden, x[-1]], change)
    call.freeze([x[1 if layer.batch_first else 0]], "order matters")
    state = [fixed(layer.num_layers * directions), x[0 if layer.batch_first else 1], hidden]
    last: Value = (state, list(state)) if layer.mode == "LSTM" else state
    return ([*x[:-1], out], last)


def _tie_weights(call: Call, layer: nn.RNNBase, weights: Sequence[Dims], source: Dimension) -> Dimension:
    """Tie every direction of every layer to what goes into it; gives what comes out of the last."""
    per_direction = 4 if layer.bias else 2
    directions = 2 if layer.bidirectional else 1
    hidden, gates = weights[1][1], _GATES.get(layer.mode, 1)
    for index in range(layer.num_layers * directions):
        own = weights[index * per_direction : (index + 1) * per_direction]
        for dims in own:
            call.tie(dims[0], Cat([hidden] * gates) if gates > 1 else hidden)
        call.tie(source, own[0][1])
        call.tie(hidden, own[1][1])
        if index % directions == directions - 1:
            source = resolve(Cat([hidden] * directions))
    return source


def _flat(value: Value) -> list[Dims]:
    if isinstance(value, list):
        return [value]
    return [dims for each in value or () for dims in _flat(each)]
