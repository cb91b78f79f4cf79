"""`prune.channels`: the weakest channels, hidden units and heads are taken out of a copy of the network."""

from collections.abc import Callable, Mapping
from typing import Annotated, final

import torch
from pydantic import BaseModel, Field, JsonValue, ValidationError
from torch import Tensor

from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.prune.channel_map import kept_outputs
from core.compression.prune.channel_worth import layer_of, layers_of, outputs_of, weigh_channels
from core.compression.prune.curves import measure_curves, with_curves
from core.compression.prune.widths import Bounds, Choice, Widths, choose_alike, choose_together
from core.compression.sensitivity import measure_layers
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.network import Network
from core.network.surgery import Channels, Costs, Group, outer_groups
from core.specs.budgets import WORDS
from core.specs.structured_pruning import ChannelPruning
from core.verdict import CurvePoint, Finding, Sensitivity

_COSTS: Mapping[str, Callable[[Costs], int]] = {
    "parameters": lambda costs: costs.parameters,
    "macs": lambda costs: costs.macs,
    "bytes": lambda costs: costs.bytes,
}


class _Recorded(BaseModel):
    kept: dict[str, Annotated[tuple[int, ...], Field(min_length=1)]]


@final
class ChannelPruner(Method[ChannelPruning]):
    """Ranks the channels of all groups and keeps the best within the costs that are asked for."""

    def apply(self, network: Network, spec: ChannelPruning, context: Context) -> tuple[Network, Report]:
        """Cut a copy; raises `unsupported_layer`, `missing_data`, `non_finite`."""
        channels = Channels(network)
        keep, curves = _recorded(channels, context), {}
        if keep is None:
            groups = _choose_groups(channels, spec)
            worth = weigh_channels(network, groups, spec, context)
            context.progress(0.4, f"Choosing the widths of {len(groups)} groups")
            widths = _choose(channels, worth, spec, context.began).widths
            keep = {group: _best(worth[group], width) for group, width in widths.items() if width < group.size}
            curves = _measure_curves(channels, worth, context)
        choice = _account(channels, keep, spec)
        sensitivities = self._measure(channels, keep, context)
        result = channels.resize(keep)
        costs = channels.costs(choice.widths)
        context.log(_tell(channels, choice, costs, spec))
        report = Report(
            layers=layers_of(network, keep),
            sensitivities=with_curves(sensitivities, curves),
            findings=() if choice.reached else (_missed(channels, choice, spec),),
            plan={
                "kept": {group.name: list[JsonValue](map(int, kept)) for group, kept in keep.items()},
                "outputs": {path: list[JsonValue](kept) for path, kept in kept_outputs(channels, keep).items()},
            },
        )
        context.progress(1.0, f"{sum(group.size - len(kept) for group, kept in keep.items())} channels removed")
        return result, report

    def _measure(self, channels: Channels, keep: Mapping[Group, Tensor], context: Context) -> dict[str, Sensitivity]:
        """What cutting each group alone costs, by the layer that names it."""
        if not _has_samples(context):
            return {}
        by_layer: dict[str, dict[Group, Tensor]] = {}
        for group, kept in keep.items():
            by_layer.setdefault(layer_of(group), {})[group] = kept

        def build(layers: frozenset[str]) -> Network:
            return channels.resize({group: kept for layer in layers for group, kept in by_layer[layer].items()})

        return measure_layers(channels.network, build, by_layer, context, span=(0.6, 0.9))


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

    return measure_curves(channels.network, build, by_layer, context, span=(0.4, 0.6))


def _has_samples(context: Context) -> bool:
    return context.dataset is not None and context.dataset.count("calibration") > 0


def _recorded(channels: Channels, context: Context) -> dict[Group, Tensor] | None:
    """What the plan keeps of each group; None without a plan. Raises `invalid_request`."""
    if context.recorded is None:
        return None
    try:
        found = _Recorded.model_validate(dict(context.recorded))
    except ValidationError as error:
        sentence = f"The plan does not say which channels {context.step} kept."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error
    return {channels.group(name): torch.tensor(kept) for name, kept in found.kept.items()}


def _account(channels: Channels, keep: Mapping[Group, Tensor], spec: ChannelPruning) -> Choice:
    """What is left to pay with these channels."""
    widths = {group: len(kept) for group, kept in keep.items()}
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


def _choose(channels: Channels, worth: Mapping[Group, Tensor], spec: ChannelPruning, began: Network | None) -> Choice:
    """Widths within the budget; in rounds, shares of single groups are of what they had when the rounds began."""
    first = {} if began is None else {group.name: group.size for group in Channels(began).groups}
    whole = {group: max(first.get(group.name, 0), group.size) for group in worth}
    fixed = {group: spec.layers[layer_of(group)] for group in worth if layer_of(group) in spec.layers}
    bounds = Bounds(spec.least, fixed, rounded=spec.multiple == "auto", whole=whole)
    cost = _COSTS[spec.keep.measure]
    most = spec.keep.most(cost(channels.costs()))
    if spec.ranking == "layer":
        return choose_alike(channels, tuple(worth), bounds, cost, most)
    return choose_together(channels, worth, bounds, cost, most)


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
