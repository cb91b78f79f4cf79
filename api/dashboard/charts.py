"""Geometry of the small charts, in percent, so that a template only writes it down."""

from dataclasses import dataclass
from itertools import pairwise

from core.verdict import Latency, Measured, Quality


@dataclass(frozen=True, slots=True)
class Axis:
    """A straight scale from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where `value` lies, in percent; values outside are drawn at the edge."""
        if self.high <= self.low:
            return 50.0
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)


@dataclass(frozen=True, slots=True)
class Span:
    """A dot with a line from `start` to `end`, in percent."""

    start: float
    dot: float
    end: float


@dataclass(frozen=True, slots=True)
class Interval:
    """Original above result on one axis, with a limit where there is one."""

    original: Span
    result: Span
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, in percent of the chart."""

    x: float
    width: float
    height: float
    series: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled tick of the axis, in percent."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Marker:
    """Where median and p95 of one series are, in percent."""

    series: str
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Times of single calls at one batch size, original and result on the same axis."""

    caption: str
    sentence: str
    bars: tuple[Bar, ...]
    markers: tuple[Marker, ...]
    ticks: tuple[Mark, ...]


def quality_interval(original: Quality, result: Quality, limit: float | None) -> Interval:
    """The 95 % intervals of both qualities and the limit."""
    ends = [original.low, original.high, result.low, result.high, *([] if limit is None else [limit])]
    margin = (max(ends) - min(ends)) * 0.08 or 0.01
    axis = Axis(min(ends) - margin, max(ends) + margin)

    def span(quality: Quality) -> Span:
        return Span(axis.at(quality.low), axis.at(quality.value), axis.at(quality.high))

    return Interval(span(original), span(result), None if limit is None else axis.at(limit))


def latency_interval(original: Latency, result: Latency, limit: float | None) -> Interval:
    """Median and p95 of both files, and the limit."""
    values = [original.median_ms, original.p95_ms, result.median_ms, result.p95_ms]
    values += [] if limit is None else [limit]
    margin = (max(values) - min(values)) * 0.15 or max(values) * 0.1
    axis = Axis(min(values) - margin, max(values) + margin)

    def span(latency: Latency) -> Span:
        return Span(axis.at(latency.median_ms), axis.at(latency.median_ms), axis.at(latency.p95_ms))

    return Interval(span(original), span(result), None if limit is None else axis.at(limit))


def histograms(original: Measured, result: Measured) -> tuple[Histogram, ...]:
    """One histogram for each batch size for which both files have one."""
    results = {latency.batch: latency for latency in result.latency}
    pairs = [(before, results[before.batch]) for before in original.latency if before.batch in results]
    return tuple(_histogram(before, after) for before, after in pairs if before.histogram and after.histogram)


def _histogram(original: Latency, result: Latency) -> Histogram:
    series = (("original", original), ("result", result))
    low = min(latency.histogram[0][0] for _, latency in series)
    # A single slow call must not squeeze all others into one bar.
    axis = Axis(low, max(latency.p95_ms for _, latency in series) * 1.15)
    # Bins differ in width, and the files in the number of calls: equal areas are equal shares of the calls.
    tallest = max(_density(latency, count) for _, latency in series for _, count in latency.histogram)
    bars = [
        Bar(axis.at(edge), width, round(90 * _density(latency, count) / tallest, 2), name)
        for name, latency in series
        for edge, count in latency.histogram
        if count and (width := round(axis.at(edge + _bin_width(latency)) - axis.at(edge), 2)) > 0
    ]
    markers = [Marker(name, axis.at(latency.median_ms), axis.at(latency.p95_ms)) for name, latency in series]
    step = _nice_step(axis.high - axis.low, 5)
    first = -(-axis.low // step)
    ticks = [Mark(axis.at(value), _label(value, step)) for value in _steps(first * step, axis.high, step)]
    before, after = (1000 * latency.batch / latency.median_ms for _, latency in series)
    return Histogram(
        caption=f"Batch {original.batch}: {before:,.0f} → {after:,.0f} samples a second",
        sentence=(
            f"Histogram of the time of single calls at batch {original.batch}. "
            f"Original median {original.median_ms:.3f} ms, p95 {original.p95_ms:.3f}. "
            f"Result median {result.median_ms:.3f} ms, p95 {result.p95_ms:.3f}."
        ),
        bars=tuple(bars),
        markers=tuple(markers),
        ticks=tuple(ticks),
    )


def _density(latency: Latency, count: int) -> float:
    """Share of the calls in a bin, for each millisecond of its width."""
    return count / sum(each for _, each in latency.histogram) / _bin_width(latency)


def _bin_width(latency: Latency) -> float:
    edges = [edge for edge, _ in latency.histogram]
    gaps = [right - left for left, right in pairwise(edges)]
    # A histogram of one bin does not say how wide it is.
    return min(gaps) if gaps else latency.median_ms * 0.02


def _nice_step(extent: float, parts: int) -> float:
    """The 1, 2 or 5 times a power of ten that divides `extent` into about `parts`."""
    rough = extent / parts
    power = 10.0 ** _floor_log10(rough)
    return power * next((factor for factor in (1.0, 2.0, 5.0) if factor * power >= rough), 10.0)


def _floor_log10(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _steps(start: float, end: float, step: float) -> list[float]:
    count = int((end - start) / step + 1e-9) + 1
    return [start + index * step for index in range(max(0, count))]


def _label(value: float, step: float) -> str:
    return f"{value:.{max(0, -_floor_log10(step))}f}"
