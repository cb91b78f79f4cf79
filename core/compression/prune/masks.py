"""`prune.weights`, `prune.vectors` and `prune.kernels`: weights that go become zero, those that stay are stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast, final

from pydantic import JsonValue
from torch import Tensor, nn

from core.compression.candidates import Candidate, find_candidates, put_encodings
from core.compression.context import Context
from core.compression.matrices import PRODUCTS, Product, as_matrix, as_weight
from core.compression.method import Method, Report
from core.compression.prune.budgets import largest_share
from core.compression.prune.criteria import weigh
from core.compression.prune.curves import measure_curves, with_curves
from core.compression.prune.ranking import Scored, keep_n_of_m, keep_of_all, keep_of_each, keep_of_outputs
from core.compression.prune.units import units_of
from core.compression.sensitivity import measure_layers
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.encodings import Dense, Elementwise, Encoding, Masked
from core.network.network import Network
from core.network.stored_bytes import stored_bytes
from core.specs.mask_pruning import MaskPruning, VectorPruning, WeightPruning
from core.verdict import Finding, Sensitivity


@final
class MaskPruner(Method[MaskPruning]):
    """Ranks weights by a criterion and masks the weakest; what stays keeps its value and its encoding."""

    def apply(self, network: Network, spec: MaskPruning, context: Context) -> tuple[Network, Report]:
        """Mask the weights; raises `unsupported_layer`, `missing_data`, `non_finite`."""
        candidates, left_out = _find(network, spec)
        values = weigh(network, candidates, spec, context)
        context.progress(0.5, f"Ranking the weights of {len(candidates)} layers")
        ranked = rank_units(candidates, values, spec)
        masks, findings = choose_within(network, candidates, ranked, spec)
        encodings = {each.name: _masked(each, masks[each.name]) for each in candidates}
        of_layer = {each.path: each.name for each in candidates}

        def build(layers: frozenset[str]) -> Network:
            return put_encodings(network, {of_layer[path]: encodings[of_layer[path]] for path in layers})

        sensitivities: dict[str, Sensitivity] = {}
        if context.dataset is not None and context.dataset.count("calibration"):
            sensitivities = measure_layers(network, build, of_layer, context, span=(0.5, 0.8))
            curves = measure_curves(network, _builder(network, ranked, spec, of_layer), of_layer, context, (0.8, 0.95))
            sensitivities = with_curves(sensitivities, curves)
        shares = {path: _share(masks[name]) for path, name in of_layer.items()}
        context.log(_tell(masks, left_out))
        report = Report(
            layers=tuple(of_layer),
            sensitivities=sensitivities,
            findings=findings,
            plan={"kept": dict[str, JsonValue](shares), "left_out": list[JsonValue](left_out)},
        )
        context.progress(1.0, f"{len(candidates)} layers pruned")
        return build(frozenset(of_layer)), report


@final
@dataclass(frozen=True)
class Ranked:
    """A weight's units in the shape (outputs, inputs of a group, taps …), and the score that they are ranked by."""

    candidate: Candidate
    scored: Scored
    score: Tensor

    def mask(self, kept: Tensor) -> Tensor:
        """Which numbers of the weight stay with these units: booleans in the weight's own shape."""
        return _stored(cast("Product", self.candidate.layer), self.scored.mask(kept))


def rank_units(candidates: tuple[Candidate, ...], values: Mapping[str, Tensor], spec: MaskPruning) -> dict[str, Ranked]:
    """What the spec ranks, of each weight by its name."""
    ranked = {}
    for each in candidates:
        worth = _outputs_first(cast("Product", each.layer), values[each.name])
        scored = Scored.of(units_of(spec, worth.shape), worth)
        ranked[each.name] = Ranked(each, scored, scored.lamp() if spec.criterion == "lamp" else scored.mean)
    return ranked


def choose_within(
    network: Network, candidates: tuple[Candidate, ...], ranked: Mapping[str, Ranked], spec: MaskPruning
) -> tuple[dict[str, Tensor], tuple[Finding, ...]]:
    """The masks with which the network keeps to its budget, and a finding where even the smallest do not."""
    if spec.keep.weights is not None:
        return choose_masks(candidates, ranked, spec, spec.keep.weights), ()
    most = spec.keep.most(stored_bytes(network))

    def bytes_at(share: float) -> int:
        masks = choose_masks(candidates, ranked, spec, share)
        return stored_bytes(put_encodings(network, {each.name: _masked(each, masks[each.name]) for each in candidates}))

    found = largest_share(bytes_at, most)
    masks = choose_masks(candidates, ranked, spec, found.share)
    if found.reached:
        return masks, ()
    text = (
        f"At most {most:,.0f} bytes of weights were asked for; {found.cost:,} are left with a unit of each weight that "
        "is pruned: what is not pruned, and where the weights are, stays."
    )
    return masks, (make_finding("pruning_goal_missed", text),)


def choose_masks(
    candidates: tuple[Candidate, ...], ranked: Mapping[str, Ranked], spec: MaskPruning, share: float
) -> dict[str, Tensor]:
    """Of each weight, by name, which numbers stay: booleans in its shape; `share` of all where no layer has its own."""
    own = {each.name for each in candidates if each.path in spec.layers}
    kept: dict[str, Tensor] = {}
    if spec.compares_layers:
        together = [name for name in ranked if name not in own]
        scores, scored = ({name: getattr(ranked[name], part) for name in together} for part in ("score", "scored"))
        kept = keep_of_all(scores, scored, share) if together else {}
    for each in candidates:
        if each.name not in kept:
            fixed = spec.fixed_share(each.path)
            kept[each.name] = _keep(ranked[each.name].score, share if fixed is None else fixed, spec)
    return {name: each.mask(kept[name]) for name, each in ranked.items()}


def _keep(score: Tensor, share: float, spec: MaskPruning) -> Tensor:
    """The units of one weight that stay, where it is ranked by itself."""
    if isinstance(spec, WeightPruning) and spec.n is not None and spec.m is not None:
        return keep_n_of_m(score, max(round(share * spec.m), 1), spec.m)
    if spec.ranking == "output":
        return keep_of_outputs(score, share)
    return keep_of_each(score, share)


def _builder(
    network: Network, ranked: Mapping[str, Ranked], spec: MaskPruning, of_layer: Mapping[str, str]
) -> Callable[[str, float], Network]:
    """What masks one layer alone so that a share of it stays."""

    def build(path: str, share: float) -> Network:
        each = ranked[of_layer[path]]
        mask = each.mask(_keep(each.score, share, spec))
        return put_encodings(network, {each.candidate.name: _masked(each.candidate, mask)})

    return build


def _find(network: Network, spec: MaskPruning) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """The weights to prune, and layers that could be pruned but for how they are called or stored."""
    found, left_out = find_candidates(network, spec.protect, takes=spec.takes)
    suited = [each for each in found if _suits(spec, each.layer)]
    chosen = tuple(each for each in suited if _can_mask(network.encodings.get(each.name)))
    if not chosen:
        raise ModelpressError("unsupported_layer", spec.nothing_left(protected=bool(spec.protect)))
    unmaskable = {each.path for each in suited} - {each.path for each in chosen}
    others = {path for path in left_out if _suits(spec, network.graph.get_submodule(path))}
    return chosen, tuple(sorted(others | unmaskable))


def _suits(spec: MaskPruning, layer: nn.Module) -> bool:
    """Whether a layer has what the spec removes; as `takes_layer` of the spec says it of a description."""
    if isinstance(spec, WeightPruning):
        return isinstance(layer, PRODUCTS)
    if not isinstance(layer, PRODUCTS) or isinstance(layer, nn.Linear):
        return False
    least = 2 if isinstance(spec, VectorPruning) else 1
    return len(layer.kernel_size) >= least and max(layer.kernel_size) > 1


def _can_mask(encoding: Encoding | None) -> bool:
    """Not where each channel has another zero."""
    return encoding is None or isinstance(encoding, Masked) or (isinstance(encoding, Elementwise) and encoding.maskable)


def _outputs_first(layer: Product, values: Tensor) -> Tensor:
    """A weight, or anything in its shape, as (outputs, inputs of a group, taps …)."""
    matrix = as_matrix(layer, values).flatten(0, 1)
    return matrix if isinstance(layer, nn.Linear) else matrix.reshape(len(matrix), -1, *layer.kernel_size)


def _stored(layer: Product, values: Tensor) -> Tensor:
    """The opposite."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return as_weight(layer, values.reshape(groups, len(values) // groups, -1))


def _masked(each: Candidate, mask: Tensor) -> Masked:
    return Masked(mask & (each.weight != 0), Dense(each.weight))


def _share(mask: Tensor) -> float:
    return round(float(mask.double().mean()), 6)


def _tell(masks: Mapping[str, Tensor], left_out: tuple[str, ...]) -> str:
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    text = f"{kept:,} of {total:,} weights stay ({kept / total:.1%}) in {len(masks)} layers"
    least = min(masks, key=lambda name: _share(masks[name]))
    text += f"; {least} keeps the least, {_share(masks[least]):.1%}."
    return text + (f" Left as they are: {', '.join(left_out)}." if left_out else "")
