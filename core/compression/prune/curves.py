"""Sensitivity curves: how the loss rises while one layer alone keeps less and less of itself."""

from collections.abc import Callable, Collection

from core.compression.context import Context
from core.compression.sensitivity import effort_for, measure_sensitivity, spread
from core.compression.yardstick import Yardstick, choosing_split
from core.network.describe import describe
from core.network.network import Network
from core.verdict import CurvePoint, Sensitivity

# Shares of a layer that are kept, and samples that the loss is taken on: a curve is looked at, nothing is chosen by it.
SHARES = (0.75, 0.5, 0.25)
SAMPLES = 64

Build = Callable[[str, float], Network]


def measure_curves(
    network: Network, build: Build, names: Collection[str], context: Context, span: tuple[float, float]
) -> dict[str, tuple[CurvePoint, ...]]:
    """Of every layer in `names`, by falling share, what `build(name, share)` loses against `network`.

    The cost is bounded as that of `measure_layers`; a layer that is not tried has no curve. Each point is told as the
    metric `prune_sensitivity` of the layer, at its share. `span` is where the trials lie within the step, 0 … 1.
    Nothing where the context wants none of it. Raises `missing_data`.
    """
    if not context.alone:
        return {}
    dataset = context.needed_dataset()
    split = choosing_split(dataset)
    size = network.inputs[0].shape[0] if network.inputs[0].shape else 1
    trials = len(names) * len(SHARES)
    effort = effort_for(trials, describe(network).macs, size if isinstance(size, int) else 1, most=SAMPLES)
    tried = spread(sorted(names), max(effort.layers // len(SHARES), 1))
    yardstick = Yardstick(network, dataset, split=split, limit=effort.samples)
    curves: dict[str, tuple[CurvePoint, ...]] = {}
    for number, name in enumerate(tried):
        points = []
        for place, share in enumerate(SHARES):
            done = (number + place / len(SHARES)) / len(tried)
            context.progress(span[0] + (span[1] - span[0]) * done, f"What {name} loses as {share:.0%} of it")
            found = _judge(build(name, share), name, yardstick)
            points.append(CurvePoint(kept=share, loss_increase=found.loss_increase))
            if found.loss_increase is not None:
                context.metric("prune_sensitivity", found.loss_increase, split=split, layer=name, at=share)
        curves[name] = tuple(points)
    return curves


def with_curves(
    sensitivities: dict[str, Sensitivity], curves: dict[str, tuple[CurvePoint, ...]]
) -> dict[str, Sensitivity]:
    """What each layer costs, with its curve where there is one."""
    names = dict.fromkeys((*sensitivities, *curves))
    return {
        name: sensitivities.get(name, Sensitivity()).model_copy(update={"curve": curves.get(name, ())})
        for name in names
    }


def _judge(pruned: Network, name: str, yardstick: Yardstick) -> Sensitivity:
    return measure_sensitivity(lambda _: pruned, name, yardstick)
