"""The choice of a learning rate: short trainings from the same weights, whose loss on other samples is compared."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from core.compression.train.feeding import Feeder, on_device, part_of
from core.compression.train.state import put_state, state_of
from core.compression.train.updates import Learner, rate_at
from core.specs.train import Training

# Of the updates, what all trials may cost, and what they may cost where that is too little to tell rates apart.
SHARE, LARGEST_SHARE = 0.05, 0.15
# Updates of a trial: fewer say nothing, from some number on more say nothing new.
FEWEST, ENOUGH, MOST = 8, 16, 64
# Trials that are counted with; one more is made where rates have to be far below the usual ones.
TRIALS = 4
# Batches that judge a trial, at a third of an update each.
JUDGING = 4
# In the order of size. A trial is short and likes rates that carry far, so the largest ones are left out: what is best
# for some hundreds of updates was at most 1e-2 with AdamW, whatever shorter trials said.
RATES: Mapping[str, tuple[float, ...]] = {
    "adamw": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "sgd": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
# What is tried first, and what is taken where the budget is too small to try.
FIRST: Mapping[str, float] = {"adamw": 3e-3, "sgd": 3e-2}
USUAL: Mapping[str, float] = {"adamw": 3e-4, "sgd": 1e-2}


@dataclass(frozen=True)
class Probed:
    """The rate that was chosen, and what was tried: (rate, loss at the end)."""

    rate: float
    tried: tuple[tuple[float, float], ...]


def probe_updates(steps: int) -> int:
    """How many updates a trial takes before a training of `steps`; 0 where they would be too few."""
    found = _affordable(steps * SHARE)
    if found < ENOUGH:
        found = min(_affordable(steps * LARGEST_SHARE), ENOUGH)
    return min(found, MOST) if found >= FEWEST else 0


def choose_rate(learner: Learner, feeder: Feeder, updates: int, tell: Callable[[], None]) -> Probed:
    """The rate whose trial of so many updates, warm-up and descent of the rate included, ends with the smallest loss.

    From a rate that suits damaged networks upwards as long as that is better, else downwards; at once downwards where
    it leaves the loss above that of the weights as they are, and on until one does not. A range test (Smith 2017,
    arXiv 1506.01186) was tried before: within a few updates a rate shows whether it is stable, not how far it carries,
    and of damaged networks without batch norms it chose a tenth of the best. `tell` is called before each update; the
    learner stays as it was.
    """
    before = state_of(learner)
    rates = RATES[learner.settings.optimiser]
    losses: dict[float, float] = {}

    def measure(place: int) -> float:
        rate = rates[place]
        if rate not in losses:
            losses[rate] = _try(learner, feeder, rate, updates, tell)
            put_state(learner, before)
        return losses[rate]

    first = best = rates.index(FIRST[learner.settings.optimiser])
    untouched = _judge(learner, feeder, updates)
    for step in (1, -1) if measure(first) < untouched else (-1,):
        # Of two rates that spoil the network, neither says which way it is better: the next may spoil nothing.
        while 0 <= best + step < len(rates) and (measure(best + step) < measure(best) or not measure(best) < untouched):
            best += step
        if best != first:
            break
    return Probed(min(losses, key=lambda rate: (losses[rate], rate)), tuple(sorted(losses.items())))


def usual_rate(settings: Training) -> float:
    """What is taken where there is no time to probe."""
    return USUAL[settings.optimiser]


def _affordable(budget: float) -> int:
    """Updates of each trial that so many updates pay for, judgements included."""
    return int(budget / TRIALS - JUDGING / 3)


def _try(learner: Learner, feeder: Feeder, rate: float, updates: int, tell: Callable[[], None]) -> float:
    """The loss on samples that come after those of the trial; infinite where it is no number."""
    settings = learner.settings.model_copy(update={"schedule": "cosine"})
    for number in range(updates):
        tell()
        loss = learner.update(feeder.batch(number), rate * rate_at(number, updates, settings), number)
        if not math.isfinite(float(loss)):
            return math.inf
    return _judge(learner, feeder, updates)


def _judge(learner: Learner, feeder: Feeder, start: int) -> float:
    """The mean loss of the batches from `start` on; infinite where it is no number."""
    found = sum(_loss(learner, feeder, start + number) for number in range(JUDGING)) / JUDGING
    return found if math.isfinite(found) else math.inf


def _loss(learner: Learner, feeder: Feeder, number: int) -> float:
    batch, total = feeder.batch(number), 0.0
    with torch.no_grad():
        for start in range(0, len(batch.rows), learner.micro_batch):
            part = on_device(part_of(batch, start, learner.micro_batch), learner.device)
            total += float(learner.objective(learner.mounted(*part.inputs), part)) * len(part.rows)
    return total / len(batch.rows)
