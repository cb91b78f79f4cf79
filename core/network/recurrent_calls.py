"""Recurrent calls that tracing leaves whole: torch would run them step by step, and bake the number of steps in."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, fx
from torch.fx.node import Target
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
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
