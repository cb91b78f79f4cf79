"""How much each weight counts, by the criterion that the recipe asks for; zero or more, in the shape of the weight."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast, final

import torch
from torch import Tensor, fx

from core.compression.context import Context
from core.compression.curvature import diagonal_fisher
from core.compression.matrices import Product, as_matrix, as_weight, take_rows
from core.compression.quantize.candidates import Candidate
from core.compression.yardstick import input_batches
from core.errors import ModelpressError
from core.network.network import Network
from core.specs.prune import Criterion, MaskPruning

# Samples whose gradients are summed before they are squared.
_FISHER_BATCH = 4
_BATCH = 32

Values = dict[str, Tensor]


def weigh(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:
    """The value of every weight, by the name of its parameter; of what is zero already no more than zero.

    Values of different layers can be compared, as far as the criterion allows. Raises `missing_data`, `non_finite`.
    """
    found = _CRITERIA[spec.criterion](network, candidates, spec, context)
    for name, values in found.items():
        if not bool(torch.isfinite(values).all()):
            text = f"What the weights of {name} are worth is no finite number; another criterion may be."
            raise ModelpressError("non_finite", text, layer=name.rpartition(".")[0])
    return found


def _absolute(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:  # noqa: ARG001  one signature for all criteria
    return {each.name: each.weight.abs() for each in candidates}


def _squared(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:  # noqa: ARG001  one signature for all criteria
    return {each.name: each.weight.square() for each in candidates}


def _random(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:  # noqa: ARG001  one signature for all criteria
    generator = torch.Generator().manual_seed(context.seed)
    return {
        each.name: torch.where(each.weight == 0, 0.0, 1 - torch.rand(each.weight.shape, generator=generator))
        for each in candidates
    }


def _by_inputs(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:
    """w²·E[x²]: the square of Wanda's score (Sun et al. 2024, arXiv 2306.11695, equation 1), so that units add up."""
    power = _input_power(network, candidates, spec, context)
    return {
        each.name: each.weight.square()
        * as_weight(_layer(each), power[each.path].unsqueeze(1).expand_as(as_matrix(_layer(each), each.weight)))
        for each in candidates
    }


def _input_power(
    network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context
) -> dict[str, Tensor]:
    """E[x²] of each column of a layer's matrix (groups, columns), by the layer's path."""
    dataset = context.needed_dataset()
    limit = min(spec.samples, dataset.count("calibration"))
    if not limit:
        raise ModelpressError("missing_data", "The data set has no calibration samples and none to draw them from.")
    watcher = _Power(network.graph, {each.path: _layer(each) for each in candidates})
    with torch.no_grad():
        for inputs in input_batches(network, dataset, "calibration", limit=limit, batch=_BATCH):
            context.progress(0.1, "Measuring what flows into the layers")
            watcher.run(*inputs)
    return {path: (total / watcher.rows[path]).float() for path, total in watcher.sums.items()}


@final
class _Power(fx.Interpreter):
    """Sums of squares of the inputs of layers, and how many rows they are of."""

    def __init__(self, module: fx.GraphModule, layers: Mapping[str, Product]) -> None:
        super().__init__(module)
        self._layers = layers
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> object:
        path = str(n.target)
        if n.op == "call_module" and path in self._layers:
            taken = take_rows(self._layers[path], cast("Tensor", self.env[n.all_input_nodes[0]]))
            self.sums[path] = self.sums.get(path, 0) + taken.square().sum(1, dtype=torch.float64)
            self.rows[path] = self.rows.get(path, 0) + taken.shape[1]
        return super().run_node(n)


def _by_answers(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:
    """w²·E[g²]: the expected square of what the loss changes by without the weight, to first order."""
    dataset = context.needed_dataset()
    limit = min(spec.samples, dataset.count("calibration"))
    context.progress(0.1, "Measuring which weights the answers depend on")
    batches = input_batches(network, dataset, "calibration", limit=limit, batch=_FISHER_BATCH)
    names = [each.name for each in candidates]
    fisher = diagonal_fisher(network, batches, names, task=dataset.task, seed=context.seed)
    return {each.name: each.weight.square() * fisher[each.name] for each in candidates}


def _layer(candidate: Candidate) -> Product:
    return cast("Product", candidate.layer)


_CRITERIA: Mapping[Criterion, Callable[[Network, Sequence[Candidate], MaskPruning, Context], Values]] = {
    "l1": _absolute,
    "l2": _squared,
    # The share of a layer's weights is taken where units are ranked.
    "lamp": _squared,
    "wanda": _by_inputs,
    "fisher": _by_answers,
    "random": _random,
}
