"""What each layer costs at each of its widths, as a recipe asks it to be told."""

import math
from collections.abc import Iterator, Mapping
from typing import Final

import torch

from core.compression.context import Context
from core.compression.curvature import diagonal_fisher, mean_curvature
from core.compression.quantize.widths import Widths
from core.compression.sensitivity import effort_for
from core.compression.yardstick import Inputs, Yardstick, input_batches
from core.network.describe import describe
from core.specs.mixed import FLOAT_BITS, MixedQuantization

# Cost by path of a layer and bits.
Costs = Mapping[str, Mapping[int, float]]

# Samples of one draw where gradients are squared.
_FEW: Final = 2
# The width that is tried first where not all can be.
_MIDDLE: Final = 4
# A pass with gradients takes about three times as long as one without.
_BACKWARD: Final = 3
_TINY: Final = 1e-30


def measure_costs(widths: Widths, spec: MixedQuantization, context: Context, span: tuple[float, float]) -> Costs:
    """Of each layer what it costs at each width, 0 as a float; never less with fewer bits than with more.

    Calibration samples tell it, none of their labels. `span` is within the step. Raises `missing_data`, `non_finite`.
    """
    if spec.sensitivity in ("fisher", "hessian"):
        found = _by_curvature(widths, spec, context, span)
    else:
        found = _by_trials(widths, spec, context, span)
    return {path: _falling(costs) for path, costs in found.items()}


def _falling(costs: Mapping[int, float]) -> dict[int, float]:
    """By luck a layer may seem better with fewer bits; it is not taken for better. What is no number stays none."""
    found: dict[int, float] = {}
    worst = 0.0
    for bits in sorted(costs, reverse=True):
        worst = max(worst, costs[bits]) if not math.isnan(costs[bits]) else math.inf
        found[bits] = worst
    return dict(sorted(found.items()))


def _by_curvature(
    widths: Widths, spec: MixedQuantization, context: Context, span: tuple[float, float]
) -> dict[str, dict[int, float]]:
    """Half of Σ curvature · squared error: the second term of the loss (HAWQ-V2, arXiv 1911.03852, eq. 10)."""
    names = {path: candidate.name for path, candidate in widths.candidates.items()}
    effort = effort_for(1, _BACKWARD * describe(widths.network).macs, _batch_of(widths))
    task = context.needed_dataset().task
    batches = _told(_calibration(widths, context, min(spec.samples, effort.samples), _FEW), context, span)
    if spec.sensitivity == "fisher":
        fisher = diagonal_fisher(widths.network, batches, names.values(), task=task, seed=context.seed)
        return {
            path: {bits: float((fisher[name] * widths.change(path, bits).square()).sum()) / 2 for bits in widths.bits}
            for path, name in names.items()
        }
    mean = mean_curvature(widths.network, batches, names.values(), task=task, seed=context.seed)
    # Where samples are few and a layer matters little, noise can make its curvature negative.
    return {
        path: {bits: max(mean[name], 0.0) * float(widths.change(path, bits).square().sum()) / 2 for bits in widths.bits}
        for path, name in names.items()
    }


def _by_trials(
    widths: Widths, spec: MixedQuantization, context: Context, span: tuple[float, float]
) -> dict[str, dict[int, float]]:
    """Each layer alone at each width; where that is too much, at some, and the others by their squared errors."""
    every = [bits for bits in widths.bits if bits != FLOAT_BITS]
    order = sorted(every, key=lambda bits: (abs(bits - _MIDDLE), bits))
    pairs = [(path, bits) for bits in order for path in widths.paths]
    effort = effort_for(len(pairs), describe(widths.network).macs, _batch_of(widths))
    samples = min(spec.samples, effort.samples)
    if effort.layers < len(pairs):
        context.log(f"The network is large: {effort.layers} of {len(pairs)} widths of layers are tried.")
    yardstick = Yardstick(widths.network, context.needed_dataset(), split="calibration", limit=samples, labelled=False)
    tried: dict[str, dict[int, float]] = {path: {} for path in widths.paths}
    for number, (path, bits) in enumerate(pairs[: effort.layers]):
        share = number / min(effort.layers, len(pairs))
        context.progress(span[0] + (span[1] - span[0]) * share, f"What {path} costs in {bits} bits")
        score = yardstick.score(widths.encode({path: bits}))
        tried[path][bits] = score.loss if spec.sensitivity == "measured" else 10 ** (-score.sqnr_db / 10)
    return {path: _complete(widths, path, tried) for path in widths.paths}


def _complete(widths: Widths, path: str, tried: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """All widths of a layer: costs grow with the squared error, as at the nearest width, or as in the other layers."""
    errors = {path: {each.bits: each.error for each in row} for path, row in widths.table.items()}
    own = tried[path]
    # What is no number says nothing of other layers, nor does what is exact at its width.
    ratios = [
        cost / errors[name][bits]
        for name, row in tried.items()
        for bits, cost in row.items()
        if errors[name][bits] > _TINY and math.isfinite(cost)
    ]
    found = {}
    for bits in widths.bits:
        if bits == FLOAT_BITS:
            found[bits] = 0.0
        elif bits in own:
            found[bits] = own[bits]
        else:
            rough = [each for each in own if errors[path][each] > _TINY]
            nearest = min(rough, key=lambda each: abs(each - bits), default=None)
            ratio = float(torch.tensor(ratios).median()) if nearest is None else own[nearest] / errors[path][nearest]
            found[bits] = ratio * errors[path][bits]
    return found


def _batch_of(widths: Widths) -> int:
    """How many samples the network runs at least."""
    shape = widths.network.inputs[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else 1


def _calibration(widths: Widths, context: Context, limit: int, batch: int) -> Iterator[Inputs]:
    limit = max(limit, _batch_of(widths))
    return input_batches(widths.network, context.needed_dataset(), "calibration", limit=limit, batch=batch)


def _told(batches: Iterator[Inputs], context: Context, span: tuple[float, float]) -> Iterator[Inputs]:
    """The batches; a cancel is noticed between them."""
    for inputs in batches:
        context.progress(span[0], "On which weights the answers depend")
        yield inputs
