"""Widths by what channels are worth, by equal shares, and between both: which of them is best is tried."""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from core.compression.prune.widths import Bounds, Choice, Widths, choose_alike, choose_together
from core.network.surgery import Channels, Costs, Group

Cost = Callable[[Costs], int]

# How far widths lie from those by worth towards equal shares. A worth to first order knows nothing of what the loss of
# many channels at once costs, so that it takes too many of some layers; equal shares know nothing of layers.
TRIED = (0.0, 0.25, 0.5, 0.75, 1.0)
# Steps of the common factor of widths.
_STEPS = 256


def worth_of_cost(channels: Channels, worth: Mapping[Group, Tensor], cost: Cost) -> dict[Group, Tensor]:
    """The worth of each index as a share of what it costs, in the mean over half of its group, all others whole.

    Of several sets that cost the same, that of the largest worth then stays, where costs add up.
    """
    whole, found = cost(channels.costs()), {}
    for group, values in worth.items():
        half = max(group.size // 2, 1)
        price = (whole - cost(channels.costs({group: half}))) / max(group.size - half, 1)
        found[group] = values / max(price, 1e-9)
    return found


def mix_widths(
    channels: Channels, worth: Mapping[Group, Tensor], bounds: Bounds, cost: Cost, most: float
) -> Iterator[Choice]:
    """Widths wₐˢ·w₁₋ˢ of those by worth and of equal shares for each s in `TRIED`, each at the largest common factor.

    What rounding leaves of the budget is spent on the groups that it took most from. The same widths come once.
    """
    by_worth = choose_together(channels, worth, bounds, cost, most)
    if not by_worth.reached:
        yield by_worth
        return
    alike = choose_alike(channels, tuple(worth), bounds, cost, most).widths
    seen: list[Widths] = []
    for share in TRIED:
        wanted = {group: width ** (1 - share) * alike[group] ** share for group, width in by_worth.widths.items()}
        found = _fill(channels, _scale(channels, wanted, bounds, cost, most), wanted, bounds, cost, most)
        if found not in seen:
            seen.append(found)
            yield Choice(found, cost(channels.costs(found)), reached=True)


def _scale(channels: Channels, wanted: Mapping[Group, float], bounds: Bounds, cost: Cost, most: float) -> Widths:
    """The wanted widths times the largest factor that the budget holds, found by bisection."""

    def at(step: int) -> Widths:
        return {group: bounds.width(group, width * 2 * step / _STEPS) for group, width in wanted.items()}

    low, high = 0, _STEPS
    while high - low > 1:
        middle = (low + high) // 2
        if cost(channels.costs(at(middle))) <= most:
            low = middle
        else:
            high = middle
    return at(low)


def _fill(
    channels: Channels, widths: Widths, wanted: Mapping[Group, float], bounds: Bounds, cost: Cost, most: float
) -> Widths:
    """Each group one step wider where the budget holds it, those first that rounding took most from."""
    found = dict(widths)
    for group in sorted(widths, key=lambda each: wanted[each] / widths[each], reverse=True):
        wider = (bounds.width(group, width) for width in range(widths[group] + 1, group.size + 1))
        tried = found | {group: next((width for width in wider if width > widths[group]), widths[group])}
        if cost(channels.costs(tried)) <= most:
            found = tried
    return found
