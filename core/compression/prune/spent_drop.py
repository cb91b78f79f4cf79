"""A budget of quality in one shot: the smallest share with which the quality falls by no more than was asked for."""

from dataclasses import replace
from typing import Any, final

from pydantic import BaseModel, JsonValue, ValidationError

from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.prune.round_budgets import numbers_left, one_shot
from core.compression.prune.standing import GOAL_MISSED
from core.compression.yardstick import Yardstick, choosing_split
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.network import Network
from core.network.surgery import find_blocks
from core.specs.pruning import JUDGED_SAMPLES, Pruning

# Shares that are tried lie so many to a halving, over so many halvings: seven trials find one of 112.
_TO_A_HALVING, _HALVINGS = 16, 7


class _Recorded(BaseModel):
    share: float | None


@final
class DropSpender:
    """Tries shares of what a bare number would stand for, by bisection; each trial is measured, none is guessed."""

    def __init__(self, pruner: Method[Any], network: Network, spec: Pruning, context: Context) -> None:
        self._pruner, self._network, self._spec, self._context = pruner, network, spec, context
        self._yardstick = open_yardstick(network, context)

    def spend(self) -> tuple[Network, Report]:
        """The network that is pruned as far as the drop allows; raises `missing_data` and what the pruner raises."""
        share = self._choose() if self._context.recorded is None else self._follow()
        if share is None:
            text = f"The drop of {self._spec.keep.amount:g} is spent before anything goes, so all stays as it was."
            finding = make_finding(GOAL_MISSED, text)
            return self._network, Report(layers=(), findings=(finding,), plan={"share": None})
        network, report = self._pruner.apply(self._network, self._of(share), self._part(0.8, 1.0))
        drop = self._yardstick.drop(self._yardstick.score(network))
        self._context.log(
            f"The quality falls by {drop:.4f} on {self._yardstick.samples} samples, and may by "
            f"{self._spec.keep.amount:g}, where {share:.1%} of the {self._spec.keep.shorthand} are asked for."
        )
        return network, replace(forget_goal(report), plan={"share": share, **report.plan})

    def _choose(self) -> float | None:
        """The smallest share within the drop; None where none is."""
        shares = self._shares()
        kept = self._context.checkpoint.restore()
        drops: dict[str, JsonValue] = {} if kept is None else dict(kept[1])
        good, bad = -1, len(shares)
        trial = 0
        while bad - good > 1:
            middle = (good + bad) // 2
            if str(middle) not in drops:
                drops[str(middle)] = self._drop(shares[middle], trial / max(len(shares).bit_length(), 1))
                if self._context.checkpoint.due():
                    self._context.checkpoint.keep({}, drops)
            trial += 1
            drop = drops[str(middle)]
            # No number is a drop, too.
            good, bad = (middle, bad) if isinstance(drop, float) and drop <= self._spec.keep.amount else (good, middle)
        return None if good < 0 else shares[good]

    def _follow(self) -> float | None:
        try:
            return _Recorded.model_validate(dict(self._context.recorded or {})).share
        except ValidationError as error:
            sentence = f"The plan does not say how much {self._context.step} kept."
            raise ModelpressError("invalid_request", sentence, pointer="/plan") from error

    def _shares(self) -> list[float]:
        """From the largest to the smallest; of blocks, those that leave another number of them."""
        if self._spec.keep.shorthand == "blocks":
            count = len(find_blocks(self._network))
            # Of fewer than two the pruner says that there are none.
            return [left / count for left in range(count - 1, 0, -1)] or [0.5]
        return [2 ** (-place / _TO_A_HALVING) for place in range(1, _TO_A_HALVING * _HALVINGS + 1)]

    def _drop(self, share: float, done: float) -> float:
        part = self._part(0.8 * min(done, 1.0), 0.8 * min(done + 0.1, 1.0))
        network, _ = self._pruner.apply(self._network, self._of(share), replace(part, alone=False, recorded=None))
        drop = self._yardstick.drop(self._yardstick.score(network))
        left = numbers_left(network) / max(numbers_left(self._network), 1)
        self._context.metric("drop", drop, split=self._yardstick.split, at=left)
        return drop

    def _of(self, share: float) -> Pruning:
        return one_shot(self._spec, self._spec.keep.of(self._spec.keep.shorthand, share), 1.0)

    def _part(self, begin: float, end: float) -> Context:
        start, stop = self._context.span
        width = stop - start
        return replace(self._context, span=(start + width * begin, start + width * end))


def forget_goal(report: Report) -> Report:
    """Without what is said of a size that was tried for, which nobody has asked for."""
    return replace(report, findings=tuple(each for each in report.findings if each.code != GOAL_MISSED))


def open_yardstick(network: Network, context: Context) -> Yardstick:
    """What drops are measured with, against `network`; raises `missing_data`."""
    dataset = context.needed_dataset()
    return Yardstick(network, dataset, split=choosing_split(dataset), limit=JUDGED_SAMPLES)
