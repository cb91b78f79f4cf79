"""How much each weight counts, by the criterion that the recipe asks for; zero or more, in the shape of the weight."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import cast, final

import numpy as np
import torch
from torch import Tensor, fx, nn

from core.compression.candidates import Candidate
from core.compression.context import Context
from core.compression.curvature import Parts, diagonal_fisher, empirical_squares
from core.compression.matrices import Product, as_matrix, as_weight, take_rows
from core.compression.prune.units import from_outputs, outputs_first, units_of
from core.compression.train.losses import LOSSES
from core.compression.yardstick import Inputs, input_batches
from core.errors import ModelpressError
from core.network.network import Network
from core.specs.mask_pruning import Criterion, MaskPruning

# Samples whose gradients are summed before they are squared.
FISHER_BATCH = 4
_BATCH = 32
_LOOKING = "Measuring which weights the answers depend on"

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
    watcher = _Power(network.graph, {each.path: _layer(each) for each in candidates})
    with torch.no_grad():
        for inputs in take_samples(
            network, spec.samples, context, batch=_BATCH, text="Measuring what flows into layers"
        ):
            watcher.run(*inputs)
    if not watcher.rows:
        raise ModelpressError("missing_data", "The data set has too few calibration samples for one batch.")
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
            value = cast("Tensor", self.env[n.all_input_nodes[0]])
            # The windows of a large image take as many times its memory as a kernel has taps: one after the other.
            for piece in [value] if isinstance(self._layers[path], nn.Linear) else torch.split(value, 1):
                taken = take_rows(self._layers[path], piece)
                self.sums[path] = self.sums.get(path, 0) + taken.square().sum(1, dtype=torch.float64)
                self.rows[path] = self.rows.get(path, 0) + taken.shape[1]
        return super().run_node(n)


def _by_answers(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:
    """w²·E[g²]: the expected square of what the loss changes by without the weight, to first order."""
    batches = take_samples(network, spec.samples, context, batch=FISHER_BATCH, text=_LOOKING)
    names = [each.name for each in candidates]
    fisher = diagonal_fisher(network, batches, names, task=context.needed_dataset().task, seed=context.seed)
    return {each.name: each.weight.square() * fisher[each.name] for each in candidates}


def _by_labels(network: Network, candidates: Sequence[Candidate], spec: MaskPruning, context: Context) -> Values:
    """E[(Σ w·g)²] over each unit, against labels (Molchanov et al. 2019, arXiv 1906.10771, equation 8), shared out."""
    by_name = {each.name: each for each in candidates}
    weights = {name: outputs_first(_layer(each), each.weight).double() for name, each in by_name.items()}
    units = {name: units_of(spec, weight.shape) for name, weight in weights.items()}

    def gates(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: outputs_first(_layer(by_name[name]), gradient) for name, gradient in gradients.items()}
        return {name: units[name].total(weights[name] * gradient) for name, gradient in found.items()}

    squares = squares_by_labels(network, list(by_name), gates, spec.samples, context)
    sizes = {name: units[name].total(torch.ones_like(weight)).clamp_min(1) for name, weight in weights.items()}
    return {
        name: from_outputs(_layer(each), units[name].spread(squares[name] / sizes[name]).float())
        for name, each in by_name.items()
    }


def squares_by_labels(
    network: Network, names: Collection[str], parts: Parts, samples: int, context: Context
) -> dict[str, Tensor]:
    """As `empirical_squares`, with the labels of calibration samples; raises `missing_data` where there are none."""
    dataset = context.needed_dataset()
    task = dataset.task
    if task not in LOSSES:
        raise ModelpressError(
            "missing_data", f"No loss is known for the task {task}.", hint="Take the criterion fisher."
        )
    if not dataset.labelled("calibration"):
        text = "The criterion taylor needs calibration samples with labels."
        raise ModelpressError("missing_data", text, hint="The criterion fisher needs none.")

    def labelled() -> Iterator[tuple[Inputs, Tensor]]:
        start = 0
        for batch in take_samples(network, samples, context, batch=FISHER_BATCH, text=_LOOKING):
            rows = np.arange(start, start + len(batch[0]), dtype=np.int64)
            labels = dataset.take("calibration", rows).labels
            start += len(rows)
            if labels is not None:
                yield batch, labels

    def loss(found: Tensor, labels: Tensor) -> Tensor:
        return LOSSES[task](found, labels, 0.0).sum()

    return empirical_squares(network, labelled(), names, parts, task=task, loss=loss)


def take_samples(network: Network, samples: int, context: Context, *, batch: int, text: str) -> Iterator[Inputs]:
    """The inputs of the first calibration samples; says between batches how far it is, where a job can be cancelled.

    Raises `missing_data`.
    """
    dataset = context.needed_dataset()
    limit = min(samples, dataset.count("calibration"))
    done = 0
    for inputs in input_batches(network, dataset, "calibration", limit=limit, batch=batch):
        context.progress(0.4 * done / max(limit, 1), text)
        done += inputs[0].shape[0]
        yield inputs


def _layer(candidate: Candidate) -> Product:
    return cast("Product", candidate.layer)


_CRITERIA: Mapping[Criterion, Callable[[Network, Sequence[Candidate], MaskPruning, Context], Values]] = {
    "l1": _absolute,
    "l2": _squared,
    # The share of a layer's weights is taken where units are ranked.
    "lamp": _squared,
    "wanda": _by_inputs,
    "fisher": _by_answers,
    "taylor": _by_labels,
    "random": _random,
}
