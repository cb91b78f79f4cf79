"""Bias correction: rounding the weights moves the mean of a layer's output; its bias takes the move back."""

import copy
from collections.abc import Iterable, Mapping
from typing import final

import torch
from torch import Tensor, fx, nn

from core.errors import ModelpressError

Inputs = tuple[Tensor, ...]


def correct_biases(
    module: fx.GraphModule, rounded: Mapping[str, Tensor], batches: Iterable[Inputs]
) -> dict[str, Tensor]:
    """What to add to the bias of each layer, E[W·x] − E[Ŵ·x] of each channel (Nagel 2019, arXiv 1906.04721, §4.2).

    `rounded` has the weights Ŵ by layer. Shape (channels,) by layer; layers without a bias are left out. Raises
    `non_finite` where a mean is no number.
    """
    chosen = [path for path in rounded if module.get_submodule(path)._parameters.get("bias") is not None]
    watcher = _Comparer(module, {path: _with_weight(module.get_submodule(path), rounded[path]) for path in chosen})
    with torch.no_grad():
        for inputs in batches:
            watcher.run(*inputs)
    found = {path: (total / watcher.counts[path]).float() for path, total in watcher.totals.items()}
    for path, correction in found.items():
        if not bool(torch.isfinite(correction).all()):
            raise ModelpressError("non_finite", f"Calibration samples give NaN or infinity at {path}.", layer=path)
    return found


def _with_weight(layer: nn.Module, weight: Tensor) -> nn.Module:
    twin = copy.copy(layer)
    twin._parameters = {**layer._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    return twin


@final
class _Comparer(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, twins: dict[str, nn.Module]) -> None:
        super().__init__(module)
        self._twins = twins
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.op == "call_module" and str(n.target) in self._twins and isinstance(value, Tensor):
            path = str(n.target)
            difference = value - self._twins[path](self.env[n.all_input_nodes[0]])
            if isinstance(self._twins[path], nn.Linear):
                difference = difference.flatten(0, -2)
            else:
                difference = difference.movedim(1, -1).flatten(0, -2)
            self.totals[path] = self.totals.get(path, 0) + difference.double().sum(0)
            self.counts[path] = self.counts.get(path, 0) + difference.shape[0]
        return value
