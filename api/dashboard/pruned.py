"""The table of pruned layers: how the loss rises as one layer alone keeps less and less of itself."""

from dataclasses import dataclass

from api.dashboard.charts import Axis
from api.dashboard.formats import DASH, percent, signed
from core.verdict import Verdict


@dataclass(frozen=True, slots=True)
class PrunedRow:
    """One layer; `line` are points of a polyline from all to the least that is kept, y downwards, 100 by 100."""

    name: str
    increases: tuple[str, ...]
    line: str


@dataclass(frozen=True, slots=True)
class PrunedTable:
    """The rows in the order of the network, the shares above their columns, and what to take away."""

    shares: tuple[str, ...]
    rows: tuple[PrunedRow, ...]
    sentence: str


def pruned_table(verdict: Verdict) -> PrunedTable | None:
    """The layers with a curve; None where there is none. All lines have the same scale."""
    layers = [layer for layer in verdict.layers if layer.sensitivity.curve]
    shares = verdict.kept_shares
    if not layers:
        return None
    known = [point.loss_increase for layer in layers for point in layer.sensitivity.curve]
    up = Axis(min(0.0, *(each or 0.0 for each in known)), max(0.0, *(each or 0.0 for each in known)))
    across = Axis(0.0, 1 - shares[-1])
    rows = []
    for layer in layers:
        points = [(1.0, 0.0), *((point.kept, point.loss_increase) for point in layer.sensitivity.curve)]
        corners = [(1 - kept, value) for kept, value in points if value is not None]
        increases = [layer.sensitivity.increase_at(share) for share in shares]
        rows.append(
            PrunedRow(
                name=layer.name,
                increases=tuple(DASH if each is None else signed(each) for each in increases),
                line=" ".join(f"{across.at(x)},{round(100 - up.at(y), 2)}" for x, y in corners),
            )
        )
    return PrunedTable(tuple(map(percent, shares)), tuple(rows), _sentence(verdict, shares[-1]))


def _sentence(verdict: Verdict, least: float) -> str:
    """The layer that pruning costs most and the one that it costs least, at the least that is kept."""
    costs = {layer.name: layer.sensitivity.increase_at(least) for layer in verdict.layers}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    if len(known) < 2:
        return ""
    worst, best = max(known, key=lambda name: known[name]), min(known, key=lambda name: known[name])
    return f"At {percent(least)}, {worst} costs most ({signed(known[worst])}) and {best} least ({signed(known[best])})."
