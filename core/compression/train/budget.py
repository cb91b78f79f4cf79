"""What a training decides before its first update: threads, parts of batches, learning rate, and its length."""

import math
import time
from typing import final

import torch

from core.compression.context import Context
from core.compression.train.course import Decisions, read_decisions
from core.compression.train.curve import SIGN_OF_LIFE
from core.compression.train.feeding import Feeder, on_device
from core.compression.train.memory import choose_micro_batch
from core.compression.train.probe import choose_rate, probe_updates, usual_rate
from core.compression.train.state import put_state, state_of
from core.compression.train.updates import Learner
from core.specs.train import USUAL_EPOCHS, Training

# Updates that are timed where minutes are given, after one that is not.
TIMED = 4
# Of the time that is left after the choices, what updates and judgements may take; a busy host takes the rest.
MARGIN = 0.95


@final
class Budget:
    """Decides for one training; the clock is asked only where minutes are given."""

    def __init__(self, learner: Learner, feeder: Feeder, context: Context, *, fixed_batch: int | None) -> None:
        """`fixed_batch` is the batch size of a network that knows only one."""
        self._learner, self._feeder, self._context = learner, feeder, context
        self._settings: Training = learner.settings
        self._fixed = fixed_batch
        self._recorded = read_decisions(context.recorded)
        self._said = -math.inf

    def decide(self, *, seconds_spent: float, judging_share: float) -> Decisions:
        """All decisions, those of an earlier run first; `judging_share` of the time goes into judgements."""
        if self._recorded is not None:
            torch.set_num_threads(self._recorded.threads)
            self._learner.micro_batch = self._recorded.micro_batch
            return self._recorded
        started = time.monotonic()
        self._learner.micro_batch = self._fixed or self._fitting_batch()
        steps = self._steps_by_count()
        seconds = None
        if self._settings.minutes is not None:
            seconds = self._seconds_of_update()
            steps = min(steps, self._settings.minutes * 60 / seconds)
        updates = probe_updates(math.floor(steps)) if self._settings.lr == "auto" else 0
        rate, source, tried = self._rate(updates)
        if seconds is not None and self._settings.minutes is not None:
            left = self._settings.minutes * 60 - seconds_spent - (time.monotonic() - started)
            steps = min(steps, left * MARGIN * (1 - judging_share) / seconds)
        return Decisions(
            lr=rate,
            lr_from=source,
            steps=max(math.floor(steps), 1),
            micro_batch=self._learner.micro_batch,
            threads=torch.get_num_threads(),
            tried=tried,
        )

    def _fitting_batch(self) -> int:
        before = state_of(self._learner)
        batch = on_device(self._feeder.batch(0), self._learner.device)
        found = choose_micro_batch(self._learner.mounted, self._learner.objective, batch)
        put_state(self._learner, before)
        if found < self._feeder.batch_size:
            text = f"Batches of {self._feeder.batch_size} are computed in parts of {found}, since memory is short."
            self._context.log(text)
        return found

    def _steps_by_count(self) -> float:
        """Updates by epochs and steps; without an end where minutes alone are given."""
        settings, found = self._settings, [math.inf]
        if settings.epochs is None and settings.steps is None and settings.minutes is None:
            found.append(USUAL_EPOCHS * self._feeder.per_epoch)
        if settings.epochs is not None:
            found.append(math.ceil(settings.epochs * self._feeder.per_epoch))
        if settings.steps is not None:
            found.append(settings.steps)
        return min(found)

    def _seconds_of_update(self) -> float:
        before = state_of(self._learner)
        self._learner.update(self._feeder.batch(0), 0.0, 0)
        started = time.monotonic()
        for number in range(1, 1 + TIMED):
            self._learner.update(self._feeder.batch(number), 0.0, number)
        found = (time.monotonic() - started) / TIMED
        put_state(self._learner, before)
        return max(found, 1e-6)

    def _rate(self, updates: int) -> tuple[float, str, tuple[tuple[float, float], ...]]:
        if self._settings.lr != "auto":
            return self._settings.lr, "recipe", ()
        if not updates:
            rate = usual_rate(self._settings)
            self._context.log(f"The budget is too small to probe the learning rate; {rate:g} is usual.")
            return rate, "usual", ()
        probed = choose_rate(self._learner, self._feeder, updates, self._give_sign)
        losses = ", ".join(f"{rate:g} to {loss:.3g}" for rate, loss in probed.tried)
        self._context.log(
            f"The learning rate is {probed.rate:g}: trials of {updates} updates brought the loss with {losses}."
        )
        return probed.rate, "probe", probed.tried

    def _give_sign(self) -> None:
        """Say now and then what is done, so that a step can be stopped within a trial."""
        if time.monotonic() - self._said >= SIGN_OF_LIFE:
            self._said = time.monotonic()
            self._context.progress(0.0, "Probing the learning rate")
