"""Pruning in rounds: rank, take away, train, and again, until a budget is reached or the drop is spent."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, final

from pydantic import JsonValue

from core.compression.chapters import Chapter, results_of
from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.prune.joined_plans import Plan
from core.compression.prune.round_budgets import RoundBudgets, numbers_left, one_shot
from core.compression.prune.round_training import train_round
from core.compression.prune.spent_drop import DropSpender, forget_goal, open_yardstick
from core.compression.prune.standing import GOAL_MISSED, Round, Stand, Standing, read_rounds
from core.compression.replay import seed_of_step
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.network import Network
from core.specs.pruning import Pruning
from core.specs.schedule import Schedule

# Of a round that trains, the share that ranking takes where progress is told.
_RANKING = 0.3

P = TypeVar("P", bound=Pruning)


@final
class InRounds(Method[P]):
    """A pruner that goes in rounds, or spends a drop, where it is asked to."""

    def __init__(self, pruner: Method[P], join: Callable[[Sequence[Plan]], Plan]) -> None:
        """`join` makes one plan of those of several rounds."""
        self._pruner, self._join = pruner, join

    def apply(self, network: Network, spec: P, context: Context) -> tuple[Network, Report]:
        """As the pruner; raises what it and the training raise, with the round."""
        if spec.schedule is not None:
            return _Course(self._pruner, self._join, network, spec, spec.schedule, context).run()
        if spec.spends_drop:
            return DropSpender(self._pruner, network, spec, context).spend()
        return self._pruner.apply(network, spec, context)


@final
class _Course:
    """The rounds of one step."""

    def __init__(
        self,
        pruner: Method[Any],
        join: Callable[[Sequence[Plan]], Plan],
        network: Network,
        spec: Pruning,
        schedule: Schedule,
        context: Context,
    ) -> None:
        self._pruner, self._join, self._given = pruner, join, network
        self._spec, self._schedule, self._context = spec, schedule, context
        self._yardstick = open_yardstick(network, context) if spec.spends_drop or _can_judge(context) else None
        self._recorded = read_rounds(context)
        found = results_of(context.checkpoint)
        if found is not None and found[1]:
            self._stand = Stand.unpack(*found)
            done = len(self._stand.standing.rounds)
            context.log(f"Goes on after {done} of {schedule.rounds} rounds.")
        else:
            # A plan says what every round leaves.
            whole = RoundBudgets.of(spec, network, context).whole if self._recorded is None else 0.0
            self._stand = Stand(Standing(whole=whole), network)
        self._budgets = RoundBudgets(spec.keep, self._stand.standing.whole)

    @property
    def _standing(self) -> Standing:
        return self._stand.standing

    def run(self) -> tuple[Network, Report]:
        """All rounds; raises what pruner and training raise, with the round in front."""
        for number in self._numbers():
            with _in_round(number, self._schedule.rounds):
                if self._standing.begun is None and not self._prune(number):
                    continue
                self._end(number)
        kept = [each for each in self._standing.rounds if each.stays]
        findings = self._standing.findings
        if not kept and self._spec.spends_drop:
            text = f"No round keeps to the drop of {self._spec.keep.amount:g}, so all stays as it was."
            findings = (make_finding(GOAL_MISSED, text),)
        plan: Plan = self._join([each.plan for each in kept]) if kept else {}
        plan = {"rounds": [each.model_dump(mode="json") for each in self._standing.rounds], **plan}
        self._context.progress(1.0, f"{len(kept)} rounds stay")
        report = Report(self._standing.layers if kept else (), self._standing.sensitivities, findings, plan)
        return self._stand.kept, report

    def _numbers(self) -> Iterator[int]:
        """The rounds that are still to be done; of a plan, those that stayed."""
        done = max((each.number for each in self._standing.rounds), default=0)
        recorded = None if self._recorded is None else {each.number for each in self._recorded if each.stays}
        for number in range(done + 1, self._schedule.rounds + 1):
            if recorded is None or number in recorded:
                yield number

    def _prune(self, number: int) -> bool:
        """Take away what this round takes; False where that is nothing."""
        network, known = self._stand.kept, self._known(number)
        gone, amount = (self._wanted(number), 0.0) if known is None else (known.gone, known.amount)
        if known is None:
            amount = self._budgets.after(gone)
            keep = self._budgets.budget(amount, network)
        else:
            keep = self._spec.keep.model_validate(known.keep)
        if keep is None:
            self._context.log(f"Round {number} of {self._schedule.rounds} has nothing to take away.")
            return False
        context = replace(
            self._part(number, 0.0, _RANKING if self._schedule.train else 1.0),
            checkpoint=self._chapter(2 * number - 1),
            recorded=None if known is None else known.plan,
            alone=self._context.alone and not self._standing.sensitivities,
            began=self._given,
        )
        try:
            pruned, report = self._pruner.apply(network, one_shot(self._spec, keep, gone), context)
        except ModelpressError as error:
            if not self._standing.rounds or error.code != "unsupported_layer":
                raise
            # What could be left out is gone.
            finding = make_finding(GOAL_MISSED, f"Round {number} takes nothing more away: {error.detail}")
            self._add(Report(layers=(), findings=(finding,)))
            return False
        if numbers_left(pruned) >= numbers_left(network):
            self._add(replace(report, layers=()))
            self._context.log(f"Round {number} of {self._schedule.rounds} takes nothing away.")
            return False
        self._add(report)
        begun = Round(number=number, keep={keep.measure: keep.amount}, gone=gone, amount=amount, plan=report.plan)
        self._standing.begun = begun
        self._stand = self._settle(Stand(self._standing, network, pruned))
        return True

    def _end(self, number: int) -> None:
        """Train what is left, judge it, and keep it unless it costs too much."""
        begun, network = self._standing.begun, self._stand.begun
        if begun is None or network is None:
            raise ModelpressError("internal", f"Round {number} ends without having begun.")
        training: dict[str, JsonValue] | None = None
        if self._schedule.train is not None:
            network, training = self._train(number, network)
        drop = self._judge(number, network)
        spent = self._spec.spends_drop and self._recorded is None
        stays = not spent or (drop is not None and drop <= self._spec.keep.amount)
        ended = begun.model_copy(update={"training": training, "drop": drop, "stays": stays})
        self._standing.rounds, self._standing.begun = (*self._standing.rounds, ended), None
        if not stays:
            self._context.log(f"Round {number} costs more than {self._spec.keep.amount:g} and is undone.")
        self._stand = self._settle(Stand(self._standing, network if stays else self._stand.kept))
        if self._context.checkpoint.due():
            self._chapter(2 * number + 1).begin()

    def _train(self, number: int, network: Network) -> tuple[Network, dict[str, JsonValue]]:
        train, known = self._schedule.train, self._known(number)
        if train is None:
            return network, {}
        context = replace(
            self._part(number, _RANKING, 1.0),
            checkpoint=self._chapter(2 * number),
            recorded=None if known is None else known.training,
            seed=seed_of_step(self._context.seed, number),
            # What the rounds began with is the teacher, where a step is called by itself.
            original=self._context.original or self._given,
        )
        trained, report, self._standing.epochs = train_round(network, train, context, self._standing.epochs)
        self._add(report)
        return trained, report.plan

    def _judge(self, number: int, network: Network) -> float | None:
        """How much worse than in the beginning the network is by now; None without samples. Tells the round."""
        left = numbers_left(network) / max(numbers_left(self._given), 1)
        text = f"Round {number} of {self._schedule.rounds}: {left:.1%} of the numbers are left"
        self._context.metric("left", left, at=float(number))
        if self._yardstick is None:
            self._context.log(f"{text}.")
            return None
        score = self._yardstick.score(network)
        drop = self._yardstick.drop(score)
        self._context.log(f"{text}, the quality is {score.quality:.4f} and was {self._yardstick.original.quality:.4f}.")
        if not math.isfinite(drop):
            return None
        self._context.metric("drop", drop, split=self._yardstick.split, at=float(number))
        return drop

    def _add(self, report: Report) -> None:
        self._standing.add(forget_goal(report) if self._spec.spends_drop else report)

    def _wanted(self, number: int) -> float:
        """The share of what has to go that is gone after a round. A drop that was too much halves the way there."""
        if not self._spec.spends_drop:
            return self._schedule.gone(number)
        good = max((each.gone for each in self._standing.rounds if each.stays), default=0.0)
        bad = min((each.gone for each in self._standing.rounds if not each.stays), default=None)
        # All can never go.
        return self._schedule.gone_at(number / (self._schedule.rounds + 1)) if bad is None else (good + bad) / 2

    def _known(self, number: int) -> Round | None:
        """What a plan says of a round."""
        return next((each for each in self._recorded or () if each.number == number), None)

    def _part(self, number: int, begin: float, end: float) -> Context:
        start, stop = self._context.span
        width = (stop - start) / self._schedule.rounds
        low = start + width * (number - 1)
        return replace(self._context, span=(low + width * begin, low + width * end))

    def _chapter(self, number: int) -> Chapter:
        try:
            return Chapter(self._context.checkpoint, number, self._stand.pack())
        except ModelpressError as error:
            self._context.log(f"No checkpoint can be made in rounds: {error.detail}", "warning")
            return Chapter(self._context.checkpoint, 0)

    def _settle(self, stand: Stand) -> Stand:
        """As a run that goes on from a checkpoint would find it, so that both go on with the same."""
        try:
            return Stand.unpack(*stand.pack())
        except ModelpressError:
            return stand


def _can_judge(context: Context) -> bool:
    """Whether there are samples that choices may be made on."""
    return context.dataset is not None and any(context.dataset.count(each) for each in ("validation", "calibration"))


@contextmanager
def _in_round(number: int, count: int) -> Iterator[None]:
    """Errors within name the round."""
    try:
        yield
    except ModelpressError as error:
        error.detail = f"Round {number} of {count}: {error.detail}"
        raise
