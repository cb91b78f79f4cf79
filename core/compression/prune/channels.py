"""`prune.channels`: the weakest channels, hidden units and heads are taken out of a copy of the network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, final

import torch
from pydantic import BaseModel, Field, JsonValue, ValidationError
from torch import Tensor

from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.prune.channel_map import kept_outputs
from core.compression.prune.channel_worth import layer_of, layers_of, outputs_of, weigh_channels
from core.compression.prune.compensation import CORRECTIONS, Compensated, Compensator, Cut
from core.compression.prune.curves import measure_curves, with_curves
from core.compression.prune.latency import choose_by_time
from core.compression.prune.timing import TIMES, Timing
from core.compression.prune.width_trials import mix_widths, worth_of_cost
from core.compression.prune.widths import Bounds, Choice, Widths, choose_alike, choose_together
from core.compression.sensitivity import measure_layers
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.network import Network
from core.network.surgery import Channels, Costs, Group, outer_groups
from core.specs.budgets import WORDS
from core.specs.structured_pruning import ChannelPruning, Correction
from core.verdict import CurvePoint, Finding, Sensitivity

_COSTS: Mapping[str, Callable[[Costs], int]] = {
    "parameters": lambda costs: costs.parameters,
    "macs": lambda costs: costs.macs,
    "bytes": lambda costs: costs.bytes,
}


class _Recorded(BaseModel):
    kept: dict[str, Annotated[tuple[int, ...], Field(min_length=1)]]
    compensated: tuple[Correction, ...] = ()
    latency: Timing | None = None


@final
class ChannelPruner(Method[ChannelPruning]):
    """Ranks the channels of all groups and keeps the best within the costs that are asked for."""

    def apply(self, network: Network, spec: ChannelPruning, context: Context) -> tuple[Network, Report]:
        """Cut a copy; raises `unsupported_layer`, `missing_data`, `non_finite`."""
        channels, curves = Channels(network), {}
        recorded = _recorded(context)
        compensator = _compensator(network, spec, context, recorded)
        if recorded is not None:
            keep = {channels.group(name): torch.tensor(kept) for name, kept in recorded.kept.items()}
            cut = _cut_out(channels, keep)
            made = _improve(cut, compensator, recorded.compensated, context, judged=False)
            timing = recorded.latency
        else:
            groups = _choose_groups(channels, spec)
            worth = weigh_channels(network, groups, spec, context)
            cut, made, timing = _try_widths(channels, worth, spec, context, compensator)
            curves = _measure_curves(channels, worth, context)
        choice = _account(channels, cut.keep, spec, timing)
        sensitivities = self._measure(channels, cut.keep, context)
        for line in (_tell(channels, choice, channels.costs(choice.widths), spec), *made.told):
            context.log(line)
        if timing is not None:
            timing.tell(context)
        report = Report(
            layers=layers_of(network, cut.keep),
            sensitivities=with_curves(sensitivities, curves),
            findings=() if choice.reached else (_missed(channels, choice, spec),),
            plan={
                "kept": {group.name: list[JsonValue](map(int, kept)) for group, kept in cut.keep.items()},
                "outputs": {path: list[JsonValue](kept) for path, kept in cut.outputs.items()},
                "compensated": list[JsonValue](made.made),
                **({} if timing is None else {"latency": timing.model_dump()}),
            },
        )
        context.progress(1.0, f"{sum(group.size - len(kept) for group, kept in cut.keep.items())} channels removed")
        return made.network, report

    def _measure(self, channels: Channels, keep: Mapping[Group, Tensor], context: Context) -> dict[str, Sensitivity]:
        """What cutting each group alone costs, by the layer that names it."""
        if not _has_samples(context):
            return {}
        by_layer: dict[str, dict[Group, Tensor]] = {}
        for group, kept in keep.items():
            by_layer.setdefault(layer_of(group), {})[group] = kept

        def build(layers: frozenset[str]) -> Network:
            return channels.resize({group: kept for layer in layers for group, kept in by_layer[layer].items()})

        return measure_layers(channels.network, build, by_layer, context, span=(0.8, 1.0))


def _measure_curves(
    channels: Channels, worth: Mapping[Group, Tensor], context: Context
) -> dict[str, tuple[CurvePoint, ...]]:
    """What cutting the groups of each layer alone costs, by the share of them that stays."""
    if not _has_samples(context):
        return {}
    by_layer: dict[str, list[Group]] = {}
    for group in worth:
        by_layer.setdefault(layer_of(group), []).append(group)

    def build(layer: str, share: float) -> Network:
        widths = {group: max(round(share * group.size), 1) for group in by_layer[layer]}
        return channels.resize({group: _best(worth[group], width) for group, width in widths.items()})

    return measure_curves(channels.network, build, by_layer, context, span=(0.7, 0.8))


def _has_samples(context: Context) -> bool:
    return context.dataset is not None and context.dataset.count("calibration") > 0


def _recorded(context: Context) -> _Recorded | None:
    """What the plan says; None without a plan. Raises `invalid_request`."""
    if context.recorded is None:
        return None
    try:
        return _Recorded.model_validate(dict(context.recorded))
    except ValidationError as error:
        sentence = f"The plan does not say which channels {context.step} kept."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error


def _account(channels: Channels, keep: Mapping[Group, Tensor], spec: ChannelPruning, timing: Timing | None) -> Choice:
    """What is left to pay with these channels; how long a run takes was measured, or is in the plan."""
    widths = {group: len(kept) for group, kept in keep.items()}
    if timing is not None:
        return Choice(widths, timing.measured_ms, timing.reached, timing)
    cost = _COSTS[spec.keep.measure]
    paid = cost(channels.costs(widths))
    return Choice(widths, paid, reached=paid <= spec.keep.most(cost(channels.costs())))


def _choose_groups(channels: Channels, spec: ChannelPruning) -> tuple[Group, ...]:
    """The groups to cut; where two lie in one dimension, as heads and head size, the outer one."""
    protect = set(spec.protect)
    found = tuple(group for group in outer_groups(channels) if not protect & outputs_of(channels.network, group))
    if not found:
        if channels.groups:
            raise ModelpressError("unsupported_layer", "Every group of channels is protected.")
        reasons = sorted({reason for each in channels.protected for reason in each.reasons})
        why = f": {'; '.join(reasons[:3])}" if reasons else ""
        raise ModelpressError("unsupported_layer", f"No channel of this network can be cut{why}.")
    named = {layer_of(group) for group in found}
    if unknown := sorted(set(spec.layers) - named):
        text = f"The output channels of {', '.join(unknown)} cannot be cut, or go with those of another layer."
        raise ModelpressError("unsupported_layer", text, hint=f"These can: {', '.join(sorted(named))[:500]}.")
    return found


def _try_widths(
    channels: Channels,
    worth: Mapping[Group, Tensor],
    spec: ChannelPruning,
    context: Context,
    compensator: Compensator | None,
) -> tuple[Cut, Compensated, Timing | None]:
    """The cut, among those whose widths are tried, whose answers are nearest to the original's once it is corrected."""
    context.progress(0.4, f"Choosing the widths of {len(worth)} groups")
    choices = _choices(channels, worth, spec, context, several=compensator is not None and compensator.is_cheap)
    found: list[tuple[Cut, Compensated]] = []
    for number, choice in enumerate(choices):
        keep = {group: _best(worth[group], width) for group, width in choice.widths.items() if width < group.size}
        cut = _cut_out(channels, keep)
        span = (0.4 + 0.3 * number / len(choices), 0.4 + 0.3 * (number + 1) / len(choices))
        found.append((cut, _improve(cut, compensator, CORRECTIONS[spec.compensate], context, span=span)))
    return *min(found, key=lambda each: each[1].distance), choices[0].timing


def _choices(
    channels: Channels, worth: Mapping[Group, Tensor], spec: ChannelPruning, context: Context, *, several: bool
) -> tuple[Choice, ...]:
    """Widths within the budget; in rounds, shares of single groups are of what they had when the rounds began."""
    began = context.began
    first = {} if began is None else {group.name: group.size for group in Channels(began).groups}
    whole = {group: max(first.get(group.name, 0), group.size) for group in worth}
    fixed = {group: spec.layers[layer_of(group)] for group in worth if layer_of(group) in spec.layers}
    bounds = Bounds(spec.least, fixed, rounded=spec.multiple == "auto", whole=whole)
    if spec.keep.measure in TIMES:
        return (choose_by_time(channels, worth, bounds, spec.keep, context, alike=spec.ranking == "layer"),)
    cost = _COSTS[spec.keep.measure]
    most = spec.keep.most(cost(channels.costs()))
    if spec.ranking == "layer":
        return (choose_alike(channels, tuple(worth), bounds, cost, most),)
    valued = worth_of_cost(channels, worth, cost) if spec.by_answers else worth
    if spec.ranking == "auto" and several:
        return tuple(mix_widths(channels, valued, bounds, cost, most))
    return (choose_together(channels, valued, bounds, cost, most),)


def _cut_out(channels: Channels, keep: Mapping[Group, Tensor]) -> Cut:
    return Cut(channels, keep, kept_outputs(channels, keep), channels.resize(keep))


def _compensator(
    network: Network, spec: ChannelPruning, context: Context, recorded: _Recorded | None
) -> Compensator | None:
    """None where nothing is corrected or tried, or by itself without real samples, to which alone layers are fitted."""
    if recorded is not None:
        return Compensator(network, spec.samples, context) if recorded.compensated else None
    asked = spec.compensate in ("least_squares", "statistics")
    real = _has_samples(context) and not context.needed_dataset().synthetic
    if asked or (real and (spec.compensate == "auto" or spec.ranking == "auto")):
        return Compensator(network, spec.samples, context)
    return None


def _improve(
    cut: Cut,
    compensator: Compensator | None,
    corrections: Sequence[Correction],
    context: Context,
    *,
    span: tuple[float, float] = (0.4, 0.7),
    judged: bool = True,
) -> Compensated:
    if compensator is None:
        return Compensated(cut.network, (), 0.0, ())

    def tick(done: float) -> None:
        context.progress(span[0] + (span[1] - span[0]) * done, "Making up for what is cut")

    return compensator.improve(cut, corrections, tick, judged=judged)


def _best(worth: Tensor, width: int) -> Tensor:
    """The worthiest indices in rising order; of equal ones the first."""
    return worth.argsort(descending=True, stable=True)[:width].sort().values


def _tell(channels: Channels, choice: Choice, costs: Costs, spec: ChannelPruning) -> str:
    before = channels.costs()
    changes = ", ".join(f"{layer_of(group)} {group.size} → {width}" for group, width in _cut(choice.widths))
    return (
        f"{costs.macs / max(before.macs, 1):.1%} of the multiply-adds and {costs.parameters / before.parameters:.1%} "
        f"of the parameters are left ({_asked(spec)} were asked for): {changes}."
    )


def _cut(widths: Widths) -> list[tuple[Group, int]]:
    return [(group, width) for group, width in widths.items() if width < group.size]


def _missed(channels: Channels, choice: Choice, spec: ChannelPruning) -> Finding:
    if choice.timing is not None:
        return choice.timing.missed()
    whole = _COSTS[spec.keep.measure](channels.costs())
    left = f"{choice.cost / whole:.1%}" if spec.keep.is_share else f"{choice.cost:,}"
    text = (
        f"{_asked(spec)} were asked for, and {left} are left with every layer as narrow as it may become: what is "
        f"protected, and at least {spec.least:.1%} of each layer, stays."
    )
    return make_finding("pruning_goal_missed", text)


def _asked(spec: ChannelPruning) -> str:
    words = WORDS[spec.keep.measure]
    return f"{spec.keep.amount:.1%} of the {words}" if spec.keep.is_share else f"{spec.keep.amount:,g} {words}"
