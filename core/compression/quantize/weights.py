"""Which grid the weights get: all 8 bits where the CPU's products are exact, a smaller or shifted one where not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from core.compression.quantize.integers import IntegerNetwork
from core.compression.quantize.saturation import EXACT_TOLERANCE, GRIDS, Choice, predict_cut
from core.compression.yardstick import Yardstick
from core.findings import make_finding
from core.network.encodings import Grid
from core.network.export_check import relative_difference
from core.network.network import Network
from core.verdict import Finding

# Quality that 7 bits may cost more than 8 before the slower unsigned weights are taken; 0.1 points of accuracy.
SEVEN_BIT_COST = 0.001

# How reasons are worded, by which a plan that is repeated is known.
_EXACT = "8-bit products are exact on this CPU."
_SATURATES = "8-bit products saturate on this CPU"

Wish = Literal["auto", "full_range", "seven_bit", "unsigned"]


@dataclass(frozen=True)
class Trial:
    """What the choice needs: how to build the network on a grid, how to run it as the target does, samples, a judge."""

    build: Callable[[Grid], Network]
    run: Callable[[Network], Tensor]
    inputs: tuple[Tensor, ...]
    yardstick: Yardstick


@dataclass(frozen=True)
class Chosen:
    """The choice, the network built on it, why, and how far the target's answers are from the exact integers."""

    choice: Choice
    network: Network
    why: str
    difference: float
    finding: Finding | None


def choose_grid(wish: Wish, trial: Trial, *, saturates: bool) -> Chosen:
    """Follow the wish; `auto` tries the full range and leaves it only where the target's answers are not exact.

    `saturates` says whether the target's 8-bit products were seen to be inexact.
    """
    if wish != "auto":
        return _take(wish, "The recipe asked for it.", trial)
    full = trial.build(GRIDS["full_range"])
    difference = _difference(full, trial)
    if difference <= EXACT_TOLERANCE:
        why = _EXACT if not saturates else "This CPU's 8-bit products can saturate, but do not with this file."
        finding = None if saturates else _elsewhere(full, trial)
        return Chosen("full_range", full, why, difference, finding)
    return _avoid(full, difference, trial)


def repeat_grid(choice: Choice, why: str, trial: Trial, *, saturates: bool) -> Chosen:
    """What an earlier run has chosen and said of it; only what this CPU makes of it is seen anew."""
    chosen = _take(choice, why, trial)
    if chosen.finding is None and why.startswith(_SATURATES):
        return replace(chosen, finding=_avoided(why))
    if chosen.finding is None and why == _EXACT and not saturates:
        return replace(chosen, finding=_elsewhere(chosen.network, trial))
    return chosen


def _take(choice: Choice, why: str, trial: Trial) -> Chosen:
    network = trial.build(GRIDS[choice])
    difference = _difference(network, trial)
    finding = None
    if difference > EXACT_TOLERANCE:
        finding = make_finding(
            "saturates_here",
            f"8-bit products saturate on this CPU: the answers are {difference:.1%} off the exact integers. "
            "The recipe or its plan asked for it; `saturation: auto` without a plan would avoid it.",
        )
    return Chosen(choice, network, why, difference, finding)


def _avoid(full: Network, difference: float, trial: Trial) -> Chosen:
    """7-bit weights, or unsigned ones where 7 bits cost too much or still are not exact."""
    wanted = trial.yardstick.score(full)
    seven = trial.build(GRIDS["seven_bit"])
    cost = trial.yardstick.drop(trial.yardstick.score(seven)) - trial.yardstick.drop(wanted)
    left = _difference(seven, trial)
    problem = f"{_SATURATES} (the answers were {difference:.1%} off the exact integers)"
    if cost <= SEVEN_BIT_COST and left <= EXACT_TOLERANCE:
        why = f"{problem}, so 7-bit weights are used; they cost {max(cost, 0.0):.4f} of quality against 8 bits."
        return Chosen("seven_bit", seven, why, left, _avoided(why))
    unsigned = trial.build(GRIDS["unsigned"])
    why = (
        f"{problem}, and 7-bit weights would cost {cost:.4f} of quality, so unsigned 8-bit weights are used, "
        "which are exact but slower."
    )
    return Chosen("unsigned", unsigned, why, _difference(unsigned, trial), _avoided(why))


def _difference(network: Network, trial: Trial) -> float:
    wanted = IntegerNetwork(network, "exact").answer(trial.inputs)
    return relative_difference(trial.run(network).numpy(), wanted.numpy())


def _avoided(why: str) -> Finding:
    return make_finding("saturation_avoided", why)


def _elsewhere(full: Network, trial: Trial) -> Finding | None:
    cut = predict_cut(full, trial.inputs)
    if cut is None:
        return None
    return make_finding(
        "saturates_without_vnni",
        f"On a CPU without VNNI this file would saturate: {cut.share:.0%} of the sums of {cut.layer} would be cut, "
        f"the outputs would be {cut.difference:.1%} off and {cut.changed:.0%} of the answers would change. "
        "For such CPUs ask for `saturation: seven_bit`.",
    )
