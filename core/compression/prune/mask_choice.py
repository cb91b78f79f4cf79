"""Which weights of each layer stay: what the spec ranks, and the masks with which a network keeps to its budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from core.compression.candidates import Candidate, put_encodings
from core.compression.matrices import Product
from core.compression.prune.budgets import largest_share
from core.compression.prune.ranking import Scored, keep_n_of_m, keep_of_all, keep_of_each, keep_of_outputs
from core.compression.prune.units import from_outputs, outputs_first, units_of
from core.findings import make_finding
from core.network.encodings import Dense, Masked
from core.network.network import Network
from core.network.stored_bytes import stored_bytes
from core.specs.mask_pruning import MaskPruning, WeightPruning
from core.verdict import Finding


@final
@dataclass(frozen=True)
class Ranked:
    """A weight's units in the shape (outputs, inputs of a group, taps …), and the score that they are ranked by."""

    candidate: Candidate
    scored: Scored
    score: Tensor

    def mask(self, kept: Tensor) -> Tensor:
        """Which numbers of the weight stay with these units: booleans in the weight's own shape."""
        return from_outputs(cast("Product", self.candidate.layer), self.scored.mask(kept))

    def alone(self, share: float, spec: MaskPruning) -> Tensor:
        """The mask that keeps a share of the units, where the weight is ranked by itself."""
        return self.mask(_keep(self.score, share, spec))

    def share_of(self, mask: Tensor) -> float:
        """Which share of the units a mask keeps."""
        chosen = outputs_first(cast("Product", self.candidate.layer), mask.float())
        return float((self.scored.units.total(chosen) > 0).double().mean())

    def by(self, worth: Tensor, share: float, spec: MaskPruning) -> Tensor:
        """The mask that keeps a share of the units, ranked by another worth of each number, in the weight's shape."""
        values = outputs_first(cast("Product", self.candidate.layer), worth.clamp_min(0))
        return self.mask(_keep(Scored.of(self.scored.units, values).mean, share, spec))


def rank_units(candidates: tuple[Candidate, ...], values: Mapping[str, Tensor], spec: MaskPruning) -> dict[str, Ranked]:
    """What the spec ranks, of each weight by its name."""
    ranked = {}
    for each in candidates:
        worth = outputs_first(cast("Product", each.layer), values[each.name])
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
        return stored_bytes(
            put_encodings(network, {each.name: masked(each.weight, masks[each.name]) for each in candidates})
        )

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


def masked(value: Tensor, mask: Tensor) -> Masked:
    """The floats of a weight that a mask keeps; zeros need not be stored."""
    return Masked(mask & (value != 0), Dense(value))
