"""Widths by time: the most worth that a run can keep in so many milliseconds, predicted, measured, corrected."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from pydantic import BaseModel
from torch import Tensor

from core.compression.context import Context
from core.compression.prune.widths import Bounds, Widths
from core.findings import make_finding
from core.measure.engine import name_runtime
from core.measure.latency_table import knots
from core.measure.network_latency import Measured, Stopwatch, cut_to, predict_network
from core.network.surgery import Channels, Group
from core.specs.budgets import Kept
from core.verdict import Finding

# Measures of a budget that are times.
TIMES = frozenset({"latency", "latency_ms"})
# Networks that are measured whole at most, each after a correction of what was predicted.
_TRIES = 3
# A run that takes less than this share of what was asked for may keep more.
_TIGHT = 0.95
# A narrower width is worth having where it saves at least this share of all that its group can save.
_REWARD = 0.02

Predict = Callable[[Mapping[Group, int]], float]


@final
class Timing(BaseModel):
    """What was asked, predicted and measured of a run at the first batch size, in milliseconds; what a plan keeps."""

    asked_ms: float
    predicted_ms: float
    measured_ms: float
    original_ms: float
    reached: bool
    runtime: str

    def sentence(self) -> str:
        """As a log tells it."""
        return (
            f"A run may take {self.asked_ms:.4g} ms in {self.runtime}, {self.predicted_ms:.4g} ms were predicted and "
            f"{self.measured_ms:.4g} ms measured; before it took {self.original_ms:.4g} ms."
        )

    def tell(self, context: Context) -> None:
        """To the log and the metrics of a job."""
        context.log(self.sentence())
        for name in ("asked_ms", "predicted_ms", "measured_ms"):
            context.metric(f"latency_{name}", getattr(self, name), unit="ms")

    def missed(self) -> Finding:
        """What is said where no widths are fast enough."""
        text = (
            f"A run of {self.asked_ms:.4g} ms was asked for, and the fastest network that may be takes "
            f"{self.measured_ms:.4g} ms in {self.runtime}: what is protected, and the least share of each layer, stays."
        )
        return make_finding("pruning_goal_missed", text)


def choose_by_time(
    channels: Channels, worth: Mapping[Group, Tensor], bounds: Bounds, keep: Kept, context: Context, *, alike: bool
) -> tuple[Widths, Timing]:
    """Widths with which a run takes no longer than the budget, as far as noise lets that be told.

    Times of operators predict (Shen et al. 2022, HALP, arXiv 2110.10811, section 3); the network is then measured whole
    and the prediction corrected by what it was off. With `alike` all groups keep the same share. Where no widths are
    fast enough, the fastest are taken. Raises `unsupported_layer` where times cannot be predicted.
    """
    with Stopwatch(channels.network, context.dataset, context.target) as stopwatch:

        def tell(done: float) -> None:
            context.progress(0.4 + 0.1 * done, "Timing the operators of the network")

        latency, table = predict_network(channels, list(worth), stopwatch, tell)
        options = {group: _rewarding(group, bounds, latency.at) for group in worth}
        wanted = keep.most(latency.at({}))
        tried: list[_Try] = []
        for number in range(_TRIES):
            context.progress(0.5 + 0.05 * number, "Measuring a network of other widths")
            widths = _alike(options, latency.at, wanted) if alike else _worthiest(options, worth, latency.at, wanted)
            if any(widths == each.widths for each in tried):
                break
            found = _Try(widths, latency.at(widths), stopwatch.measure(cut_to(channels, widths)), keep)
            tried.append(found)
            if _TIGHT <= found.load <= 1:
                break
            wanted = found.predicted_ms / found.load
        runtime = name_runtime(stopwatch.runtime)
    context.log(
        f"{table.points} operators of other widths were timed in {runtime}, half of the rounds within "
        f"{table.spread:.1%}; for the networks that were measured whole the prediction was off by "
        f"{max(each.error for each in tried):.1%} at most."
    )
    within = [each for each in tried if each.load <= 1]
    best = max(within, key=lambda each: each.predicted_ms) if within else min(tried, key=lambda each: each.load)
    return best.widths, best.timing(runtime)


@final
@dataclass(frozen=True)
class _Try:
    """Widths, the milliseconds that they were predicted to take, and those that they take."""

    widths: Widths
    predicted_ms: float
    measured: Measured
    keep: Kept

    @property
    def load(self) -> float:
        """The time as a share of what was asked for; the original was measured along with it."""
        return self.measured.median_ms / self.keep.most(self.measured.original_ms)

    @property
    def error(self) -> float:
        """How far the prediction was off."""
        return abs(self.predicted_ms / self.measured.median_ms - 1)

    def timing(self, runtime: str) -> Timing:
        """Within the budget is what noise may have put above it."""
        asked = self.keep.most(self.measured.original_ms)
        return Timing(
            asked_ms=asked,
            predicted_ms=self.predicted_ms,
            measured_ms=self.measured.median_ms,
            original_ms=self.measured.original_ms,
            reached=self.measured.interval.low * self.measured.original_ms <= asked,
            runtime=runtime,
        )


def _rewarding(group: Group, bounds: Bounds, predict: Predict) -> tuple[int, ...]:
    """The widths of a group that the host rewards, rising: of those that take equally long only the widest."""
    if group in bounds.fixed:
        return (bounds.width(group, group.size),)
    least = bounds.width(group, 0)
    every = [width for width in knots(group.size) if width >= least] or [group.size]
    times = {width: predict({group: width}) for width in every}
    worth_having = _REWARD * (times[every[-1]] - min(times.values()))
    found = [every[-1]]
    for width in reversed(every[:-1]):
        if times[width] < times[found[-1]] - worth_having:
            found.append(width)
    return tuple(reversed(found))


def _worthiest(
    options: Mapping[Group, Sequence[int]], worth: Mapping[Group, Tensor], predict: Predict, most: float
) -> Widths:
    """From the full widths on, the step that loses the least worth for the time that it saves, until the time is kept.

    Then groups are widened again where the time allows it, those first that are worth most.
    """
    lost = {group: _lost(worth[group]) for group in options}
    widths = {group: own[-1] for group, own in options.items()}
    now = predict(widths)
    while now > most:
        steps = [
            ((lost[group][width] - lost[group][widths[group]]) / saved, group, width)
            for group, own in options.items()
            for width in own
            if width < widths[group] and (saved := now - predict(widths | {group: width})) > 0
        ]
        if not steps:
            break
        _, group, width = min(steps, key=lambda step: step[0])
        widths[group] = width
        now = predict(widths)
    for group in sorted(options, key=lambda group: lost[group][widths[group]], reverse=True):
        for width in options[group]:
            if width > widths[group] and predict(widths | {group: width}) <= most:
                widths[group] = width
    return widths


def _lost(worth: Tensor) -> list[float]:
    """By width, the worth of the indices that are gone: the least worthy go."""
    gone = worth.double().clamp_min(0).sort(descending=True).values
    return [float(gone[width:].sum()) for width in range(len(gone) + 1)]


def _alike(options: Mapping[Group, Sequence[int]], predict: Predict, most: float) -> Widths:
    """The same share of every group, as nearly as its widths allow, and the largest that keeps to the time."""
    shares = sorted({width / group.size for group, own in options.items() for width in own})
    tried = [
        {group: min(own, key=lambda width: abs(width - share * group.size)) for group, own in options.items()}
        for share in shares
    ]
    return next((widths for widths in reversed(tried) if predict(widths) <= most), tried[0])
