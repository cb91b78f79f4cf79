"""What a network says before it makes probabilities of it: losses are of logits; some networks end in a softmax."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from core.description import Task
from core.network.network import Network

Undo = Callable[[Tensor], Tensor]

# Tasks whose last axis holds classes that exclude each other.
CLASS_TASKS: frozenset[Task] = frozenset({"classification", "token_classification", "language_modelling"})

_LAYERS: tuple[tuple[type[nn.Module], str], ...] = ((nn.Softmax, "softmax"), (nn.Sigmoid, "sigmoid"))
_KEEPING_VALUES = {"view", "reshape", "unsafe_view", "flatten", "squeeze", "unsqueeze", "clone", "contiguous"}


def unchanged(found: Tensor) -> Tensor:
    """The way back to logits of a network that gives them."""
    return found


def logits_of(network: Network, task: Task) -> Undo:
    """The way from a network's first output back to logits: log after a softmax, logit after a sigmoid, else nothing.

    A log of probabilities is as good as the logits, since what is added to all logits of a sample says nothing.
    """
    last = _last_call(network)
    if last == "softmax" and task in CLASS_TASKS:
        return _log
    return _logit if last == "sigmoid" and task == "multi_label" else unchanged


def _last_call(network: Network) -> str:
    """The name of the operator that gives the values of the first output, whatever shape they have by then."""
    output = next(node for node in reversed(network.graph.graph.nodes) if node.op == "output")
    first = output.args[0][0] if isinstance(output.args[0], list | tuple) else output.args[0]
    while isinstance(first, fx.Node):
        if first.op == "call_module":
            layer = network.graph.get_submodule(str(first.target))
            return next((name for kind, name in _LAYERS if isinstance(layer, kind)), "")
        name = str(getattr(first.target, "__name__", first.target)).partition(".")[0].strip("_")
        if name not in _KEEPING_VALUES:
            return name
        first = first.args[0]
    return ""


def _log(found: Tensor) -> Tensor:
    return found.clamp_min(torch.finfo(found.dtype).tiny).log()


def _logit(found: Tensor) -> Tensor:
    return torch.logit(found, eps=torch.finfo(found.dtype).eps)
