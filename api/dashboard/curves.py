"""The curves of trainings, while they run and after: loss and quality over epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from api.dashboard.charts import Axis
from api.dashboard.formats import significant
from core.resources.job import MetricPoint

# What is drawn, in this order; the learning rate follows its schedule and is left to the API.
DRAWN = ("loss", "quality")
SPLITS = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one step; `lines` are points of polylines by split, in a square of 100 by 100 with y downwards."""

    caption: str
    sentence: str
    lines: Mapping[str, str]
    low: str
    high: str
    epochs: str


def curves(points: Sequence[MetricPoint]) -> tuple[Curve, ...]:
    """A chart for each metric of each step that was told as a series; what is no number is not drawn."""
    series: dict[tuple[int, str, str], list[MetricPoint]] = {}
    for point in points:
        known = point.at is not None and isfinite(point.at) and isfinite(point.value)
        if known and point.name in DRAWN and point.split in SPLITS:
            position = point.conditions.get("position", 0)
            place = position if isinstance(position, int) else 0
            series.setdefault((place, point.step or "", point.name), []).append(point)
    order = sorted(series, key=lambda each: (each[0], each[1], DRAWN.index(each[2])))
    return tuple(_curve(step, name, series[position, step, name]) for position, step, name in order)


def _curve(step: str, name: str, points: Sequence[MetricPoint]) -> Curve:
    places, values = [point.at or 0.0 for point in points], [point.value for point in points]
    across, up = Axis(0.0, max(places)), Axis(min(values), max(values))
    lines = {}
    told = []
    for split in SPLITS:
        own = [point for point in points if point.split == split]
        if own:
            corners = (f"{across.at(point.at or 0.0)},{round(100 - up.at(point.value), 2)}" for point in own)
            lines[split] = " ".join(corners)
            told.append(f"{split} {significant(own[0].value)} → {significant(own[-1].value)}")
    caption = f"{step}: {name}, {', '.join(told)}"
    return Curve(
        caption=caption,
        sentence=f"{name.capitalize()} of {step} over {significant(max(places))} epochs: {', '.join(told)}.",
        lines=lines,
        low=significant(min(values)),
        high=significant(max(values)),
        epochs=significant(max(places)),
    )
