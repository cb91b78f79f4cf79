"""The choice of a learning rate: it rises from update to update until the loss does."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.compression.train.feeding import Feeder, on_device
from core.compression.train.state import put_state, state_of
from core.compression.train.updates import Learner
from core.specs.train import Training

# Share of the updates that the probe may cost; a loss before each update costs a third of an update more.
SHARE = 0.05
COST = 4 / 3
# Fewer updates say nothing, more say nothing new.
FEWEST, MOST = 16, 100
# The range that is tried, and what is taken where the budget is too small to try.
RANGES: Mapping[str, tuple[float, float]] = {"adamw": (3e-6, 3e-2), "sgd": (3e-5, 1.0)}
USUAL: Mapping[str, float] = {"adamw": 3e-4, "sgd": 1e-2}
# The rate at which the loss was lowest is near the edge of stability; a training that lasts goes below it.
CAUTION = 2.0
# The changes of the loss are averaged over this share of the updates.
SMOOTHED = 12
# The probe ends once the loss has risen by this share of what it was.
RISEN = 1.0


@dataclass(frozen=True)
class Probed:
    """The rate that was chosen, and what was tried: (rate, change of the loss)."""

    rate: float
    tried: tuple[tuple[float, float], ...]


def probe_updates(steps: int) -> int:
    """How many updates a probe of a training of `steps` takes; 0 where they would be too few."""
    found = min(int(steps * SHARE / COST), MOST)
    return found if found >= FEWEST else 0


def choose_rate(learner: Learner, feeder: Feeder, updates: int) -> Probed:
    """A range test (Smith 2017, arXiv 1506.01186), with each loss taken against that of the untouched weights.

    The same samples are asked before and after, so that a change of the loss is told from a change of the samples;
    networks that are good already are then as easily probed as damaged ones. The learner is left as it was.
    """
    before = state_of(learner)
    untouched = [_loss(learner, feeder, number) for number in range(updates)]
    low, high = RANGES[learner.settings.optimiser]
    rates: NDArray[np.float64] = np.geomspace(low, high, updates)
    changes: list[float] = []
    for number, rate in enumerate(rates):
        # A loss is that of the weights before the update, so it judges the rates up to the one before.
        changes.append(float(learner.update(feeder.batch(number), float(rate), number)) - untouched[number])
        if not np.isfinite(changes[-1]) or changes[-1] > RISEN * abs(untouched[number]) + 1:
            break
    put_state(learner, before)
    smooth = _smooth(np.array(changes), max(updates // SMOOTHED, 3))
    best = max(int(np.nanargmin(smooth)) - 1, 0)
    tried = tuple((float(rate), float(change)) for rate, change in zip(rates, smooth, strict=False))
    return Probed(_round(float(rates[best]) / CAUTION), tried)


def usual_rate(settings: Training) -> float:
    """What is taken where there is no time to probe."""
    return USUAL[settings.optimiser]


def _loss(learner: Learner, feeder: Feeder, number: int) -> float:
    batch = on_device(feeder.batch(number), learner.device)
    with torch.no_grad():
        return float(learner.objective(learner.mounted(*batch.inputs), batch))


def _smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Means over the `width` values around each, fewer at the ends; what is not finite counts as the largest."""
    finite = values[np.isfinite(values)]
    filled = np.where(np.isfinite(values), values, finite.max() if len(finite) else 0.0)
    half = width // 2
    return np.array([filled[max(at - half, 0) : at + half + 1].mean() for at in range(len(filled))])


def _round(rate: float) -> float:
    """Two digits: more would look like knowledge."""
    return float(f"{rate:.1e}")
