"""Widths by time: the most worth that a run can keep in so many milliseconds, predicted, measured, corrected."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from core.compression.context import Context
from core.compression.prune.timing import Timing
from core.compression.prune.widths import Bounds, Choice, Widths
from core.measure.engine import name_runtime
from core.measure.latency_table import knots
from core.measure.network_latency import Stopwatch, cut_to, predict_network
from core.network.surgery import Channels, Group
from core.specs.budgets import Kept

# Networks that are measured whole at most, each after a correction of what was predicted.
_TRIES = 3
# A run that takes less than this share of what was asked for may keep more.
_TIGHT = 0.95
# A narrower width is worth having where it saves at least this share of all that its group can save.
_REWARD = 0.02
# Rounds of single operators that differ by more are disturbed by other work on the machine.
_NOISY = 0.1

Predict = Callable[[Mapping[Group, int]], float]


def choose_by_time(
    channels: Channels, worth: Mapping[Group, Tensor], bounds: Bounds, keep: Kept, context: Context, *, alike: bool
) -> Choice:
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
        tried: list[tuple[Widths, Timing]] = []
        for number in range(_TRIES):
            context.progress(0.5 + 0.05 * number, "Measuring a network of other widths")
            widths = _alike(options, latency.at, wanted) if alike else _worthiest(options, worth, latency.at, wanted)
            if any(widths == others for others, _ in tried):
                break
            predicted, measured = latency.at(widths), stopwatch.measure(cut_to(channels, widths))
            timing = Timing.of(keep, measured, name_runtime(stopwatch.runtime), predicted)
            tried.append((widths, timing))
            if _TIGHT <= timing.load <= 1:
                break
            wanted = predicted / timing.load
    context.log(
        f"{table.points} operators of other widths were timed in {timing.runtime}, half of the rounds within "
        f"{table.spread:.1%}; {len(tried)} networks were measured whole.",
        level="warning" if table.spread > _NOISY else "info",
    )
    within = [each for each in tried if each[1].load <= 1]
    # Of those that keep to the time, the slowest has kept most.
    widths, timing = max(within or tried, key=lambda each: each[1].load if within else -each[1].load)
    return Choice(widths, timing.measured_ms, timing.reached, timing)


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

    On the way every single step that would keep to it is an end as well; of all ends that which loses least is taken,
    and groups are widened again where the time allows it, those first that are worth most.
    """
    lost = {group: _lost(worth[group]) for group in options}
    widths = {group: own[-1] for group, own in options.items()}
    now, ends = predict(widths), list[Widths]()
    while now > most:
        steps = [
            ((lost[group][tried[group]] - lost[group][widths[group]]) / (now - left), left, tried)
            for group, tried in _narrower(options, widths)
            if (left := predict(tried)) < now
        ]
        if not steps:
            return widths
        ends.extend(tried for _, left, tried in steps if left <= most)
        _, now, widths = min(steps, key=lambda step: step[0])
    widths = min([widths, *ends], key=lambda end: sum(lost[group][width] for group, width in end.items()))
    for group in sorted(options, key=lambda group: lost[group][widths[group]], reverse=True):
        for width in options[group]:
            if width > widths[group] and predict(widths | {group: width}) <= most:
                widths = widths | {group: width}
    return widths


def _narrower(options: Mapping[Group, Sequence[int]], widths: Widths) -> Iterator[tuple[Group, Widths]]:
    """All widths that differ in one group, which is narrower."""
    for group, own in options.items():
        for width in own[: own.index(widths[group])]:
            yield group, widths | {group: width}


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
