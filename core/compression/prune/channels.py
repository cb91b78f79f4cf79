"""`prune.channels`: the weakest channels, hidden units and heads are taken out of a copy of the network."""

from collections.abc import Callable, Mapping
from typing import final

from pydantic import JsonValue
from torch import Tensor

from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.prune.channel_worth import layer_of, weigh_channels
from core.compression.prune.widths import Bounds, Choice, Widths, choose_alike, choose_together
from core.compression.quantize.sensitivity import measure_layers
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.network import Network
from core.network.surgery import Channels, Costs, Group, outer_groups
from core.specs.prune import ChannelPruning, Cost
from core.verdict import Finding, Sensitivity

_COSTS: Mapping[Cost, Callable[[Costs], int]] = {
    "parameters": lambda costs: costs.parameters,
    "macs": lambda costs: costs.macs,
    "bytes": lambda costs: costs.bytes,
}
_WORDS: Mapping[Cost, str] = {"parameters": "parameters", "macs": "multiply-adds", "bytes": "bytes of weights"}


@final
class ChannelPruner(Method[ChannelPruning]):
    """Ranks the channels of all groups and keeps the best within the costs that are asked for."""

    def apply(self, network: Network, spec: ChannelPruning, context: Context) -> tuple[Network, Report]:
        """Cut a copy; raises `unsupported_layer`, `missing_data`, `non_finite`."""
        channels = Channels(network)
        groups = _choose_groups(channels, spec)
        worth = weigh_channels(network, groups, spec, context)
        context.progress(0.4, f"Choosing the widths of {len(groups)} groups")
        choice = _choose(channels, worth, spec)
        keep = {group: _best(worth[group], width) for group, width in choice.widths.items() if width < group.size}
        sensitivities = self._measure(channels, keep, context)
        result = channels.resize(keep)
        costs = channels.costs(choice.widths)
        context.log(_tell(channels, choice, costs, spec))
        report = Report(
            layers=tuple(sorted({member.path.rpartition(".")[0] for group in keep for member in group.members})),
            sensitivities=sensitivities,
            findings=() if choice.reached else (_missed(channels, choice, spec),),
            plan={"kept": {group.name: list[JsonValue](map(int, kept)) for group, kept in keep.items()}},
        )
        context.progress(1.0, f"{sum(group.size - len(kept) for group, kept in keep.items())} channels removed")
        return result, report

    def _measure(self, channels: Channels, keep: Mapping[Group, Tensor], context: Context) -> dict[str, Sensitivity]:
        """What cutting each group alone costs, by the layer that names it."""
        if context.dataset is None or not context.dataset.count("calibration"):
            return {}
        by_layer: dict[str, dict[Group, Tensor]] = {}
        for group, kept in keep.items():
            by_layer.setdefault(layer_of(group), {})[group] = kept

        def build(layers: frozenset[str]) -> Network:
            return channels.resize({group: kept for layer in layers for group, kept in by_layer[layer].items()})

        return measure_layers(channels.network, build, by_layer, context, span=(0.4, 0.9))


def _choose_groups(channels: Channels, spec: ChannelPruning) -> tuple[Group, ...]:
    """The groups to cut; where two lie in one dimension, as heads and head size, the outer one."""
    found = tuple(group for group in outer_groups(channels) if layer_of(group) not in spec.protect)
    if not found:
        why = "Every group of channels is protected." if channels.groups else "No channel of this network can be cut."
        reasons = sorted({reason for each in channels.protected for reason in each.reasons})
        raise ModelpressError("unsupported_layer", " ".join([why, *reasons[:3]]))
    named = {layer_of(group) for group in found}
    if unknown := sorted(set(spec.layers) - named):
        text = f"The output channels of {', '.join(unknown)} cannot be cut, or go with those of another layer."
        raise ModelpressError("unsupported_layer", text, hint=f"These can: {', '.join(sorted(named))[:500]}.")
    return found


def _choose(channels: Channels, worth: Mapping[Group, Tensor], spec: ChannelPruning) -> Choice:
    fixed = {group: spec.layers[layer_of(group)] for group in worth if layer_of(group) in spec.layers}
    bounds = Bounds(spec.least, fixed, rounded=spec.multiple == "auto")
    cost = _COSTS[spec.of]
    most = spec.keep * cost(channels.costs())
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
        f"of the parameters are left ({spec.keep:.1%} of the {_WORDS[spec.of]} were asked for): {changes}."
    )


def _cut(widths: Widths) -> list[tuple[Group, int]]:
    return [(group, width) for group, width in widths.items() if width < group.size]


def _missed(channels: Channels, choice: Choice, spec: ChannelPruning) -> Finding:
    whole = _COSTS[spec.of](channels.costs())
    text = (
        f"{spec.keep:.1%} of the {_WORDS[spec.of]} were asked for, and {choice.cost / whole:.1%} are left with every "
        f"layer as narrow as it may become: what is protected, and at least {spec.least:.1%} of each layer, stays."
    )
    return make_finding("pruning_goal_missed", text)
