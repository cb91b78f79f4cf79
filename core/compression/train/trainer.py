"""Trains a network: decides, goes its course with a checkpoint now and then, and gives back the best weights."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from pydantic import JsonValue
from torch import Tensor

from core.compression.context import Context
from core.compression.logits import logits_of
from core.compression.train.augmentation import Augmenter, image_inputs
from core.compression.train.budget import Budget
from core.compression.train.course import Course, Decisions
from core.compression.train.curve import Curve
from core.compression.train.feeding import Feeder, fixed_batch
from core.compression.train.latent import latent_weights
from core.compression.train.mount import TrainableNetwork
from core.compression.train.objective import Objective
from core.compression.train.outcome import Trained, changed_layers, check_same, remarks
from core.compression.train.regularisation import make_regulariser
from core.compression.train.state import put_state, put_weights, state_of, weights_of
from core.compression.train.updates import Learner, rate_at
from core.compression.train.validation import SPLIT, Examiner, Judgement
from core.data.access import RandomAccess
from core.data.dataset import Dataset
from core.description import SplitName
from core.errors import ModelpressError
from core.network.network import Network
from core.specs.train import Training

# Points of a curve.
POINTS = 100
# A judgement after each epoch or more often, for so many in all, but no more than this share of the work.
JUDGEMENTS = 5
JUDGING_SHARE = 0.1
# An update costs three forward passes of its samples.
PASSES = 3
# Fewer samples have no statistics that a batch norm could follow.
SMALLEST_FOR_NORMS = 8
BEST = "best/"


def train(network: Network, objective: Objective, data: Dataset, settings: Training, context: Context) -> Trained:
    """Train a copy of `network` on the split of `training_split`.

    With a validation split the weights that were best there are kept, those from before included. Goes on from the
    step's checkpoint to the same bytes. Raises `missing_data`, `training_diverged`.
    """
    with _kept_threads():
        return _Run(network, objective, data, settings, context).run()


def training_split(data: Dataset) -> SplitName:
    """The split that is learnt from: train, else calibration; raises `missing_data`."""
    for split in ("train", "calibration"):
        if data.count(split):
            return split
    raise ModelpressError("missing_data", "The data set has neither train nor calibration samples to learn from.")


@final
class _Run:
    def __init__(
        self, network: Network, objective: Objective, data: Dataset, settings: Training, context: Context
    ) -> None:
        self._network, self._settings, self._context = network, settings, context
        names = tuple(tensor.name for tensor in network.inputs)
        self._fixed = fixed_batch(network)
        self._feeder = _feeder(data, names, settings, seed=context.seed, fixed=self._fixed)
        # One GPU is used where there is one; only the CPU was ever tried.
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        latent = latent_weights(network, context.original)
        mounted = TrainableNetwork(network, objective.watched, latent).to(device)
        regulariser = make_regulariser(settings.regularise, network, mounted)
        self._learner = Learner(mounted, objective.to(device), settings, self._feeder.batch_size, device, regulariser)
        undo = logits_of(network, data.task)
        examiner = Examiner(data, names, fixed_batch=self._fixed, undo=undo) if data.count(SPLIT) else None
        self._examiner = examiner if examiner is not None and examiner.samples else None
        self._best: dict[str, Tensor] = {}
        self._course = Course()
        self._since = 0.0

    def run(self) -> Trained:
        """The whole training."""
        self._since = time.monotonic()
        kept = self._context.checkpoint.restore()
        decisions = self._begin() if kept is None else self._resume(*kept)
        self._learn(decisions)
        return self._finish(decisions)

    def _begin(self) -> Decisions:
        self._course.before = self._course.best = self._judge()
        self._best = weights_of(self._learner)
        self._follow()
        spent = time.monotonic() - self._since
        budget = Budget(self._learner, self._feeder, self._context, fixed_batch=self._fixed)
        decisions = budget.decide(seconds_spent=spent, judging_share=JUDGING_SHARE if self._examiner else 0.0)
        if self._settings.minutes is not None or decisions.micro_batch < self._feeder.batch_size:
            # What was decided by the clock or by free memory must outlive a kill.
            self._keep(decisions)
        return decisions

    def _learn(self, decisions: Decisions) -> None:
        """Update until the end, the clock or the lack of progress says stop."""
        end = decisions.steps if decisions.steps_done is None else decisions.steps_done
        every = max(decisions.steps // POINTS, 1)
        curve = Curve(self._context, per_epoch=self._feeder.per_epoch, every=every, end=end)
        pause = self._pause(decisions.steps)
        self._follow()
        while self._course.done < end and not self._gave_up():
            number = self._course.done
            rate = decisions.lr * rate_at(number, decisions.steps, self._settings)
            loss = float(self._learner.update(self._feeder.batch(number), rate, number))
            if not math.isfinite(loss):
                text = f"The loss was no number at update {number + 1} of {decisions.steps}, learning rate {rate:.2g}."
                raise ModelpressError("training_diverged", text)
            self._course.done = number + 1
            curve.add(loss, rate, self._course.done)
            late = decisions.steps_done is None and self._is_out_of_time()
            if late or self._course.done % pause == 0 or self._course.done == end:
                self._examine(curve)
            if late:
                break
            if self._context.checkpoint.due():
                self._keep(decisions)

    def _examine(self, curve: Curve) -> None:
        """Judge the weights as they are, and keep them if they are the best."""
        course = self._course
        with self._learner.averaged():
            found = self._judge()
            if found is not None:
                curve.judge(found, course.done)
            if found is None or course.best is None or found.beats(course.best):
                course.best, course.best_at, course.stale = found, course.done, 0
                self._best = weights_of(self._learner)
            else:
                course.stale += 1
        self._follow()

    def _finish(self, decisions: Decisions) -> Trained:
        mounted = self._learner.mounted
        put_weights(self._learner, self._best)
        mounted.follow_batches(follow=False)
        network = mounted.unmount()
        inputs = self._feeder.batch(0).inputs
        check_same(mounted, network, tuple(tensor[: self._fixed or len(tensor)] for tensor in inputs))
        record = decisions.model_copy(update={"steps_done": self._course.done}).model_dump(mode="json")
        record |= {"kept_at": self._course.best_at, "batch_size": self._feeder.batch_size}
        return Trained(network, changed_layers(self._network, network), record, remarks(self._course))

    def _judge(self) -> Judgement | None:
        if self._examiner is None:
            return None
        return self._examiner.judge(self._learner.mounted, self._learner.objective, self._learner.device)

    def _follow(self) -> None:
        follow = self._settings.batch_norm == "train" and self._learner.micro_batch >= SMALLEST_FOR_NORMS
        self._learner.mounted.follow_batches(follow=follow)

    def _pause(self, steps: int) -> int:
        """Updates from one judgement to the next."""
        if self._examiner is None:
            return steps
        cheap = math.ceil(self._examiner.samples / (JUDGING_SHARE * PASSES * self._feeder.batch_size))
        return max(min(self._feeder.per_epoch, math.ceil(steps / JUDGEMENTS)), cheap)

    def _gave_up(self) -> bool:
        return 0 < self._settings.early_stopping <= self._course.stale

    def _seconds(self) -> float:
        return self._course.seconds + time.monotonic() - self._since

    def _is_out_of_time(self) -> bool:
        return self._settings.minutes is not None and self._seconds() >= self._settings.minutes * 60

    def _keep(self, decisions: Decisions) -> None:
        """Leave a checkpoint."""
        now = time.monotonic()
        self._course.seconds, self._since = self._seconds(), now
        tensors = state_of(self._learner) | {BEST + name: tensor.cpu() for name, tensor in self._best.items()}
        facts: dict[str, JsonValue] = {
            "decisions": decisions.model_dump(mode="json"),
            "course": self._course.model_dump(mode="json"),
        }
        self._context.checkpoint.keep(tensors, facts)

    def _resume(self, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> Decisions:
        """Put everything back as `_keep` found it."""
        decisions = Decisions.model_validate(facts["decisions"])
        self._course = Course.model_validate(facts["course"])
        torch.set_num_threads(decisions.threads)
        self._learner.micro_batch = decisions.micro_batch
        put_state(self._learner, tensors)
        best = {name.removeprefix(BEST): tensor for name, tensor in tensors.items() if name.startswith(BEST)}
        self._best = {name: tensor.to(self._learner.device) for name, tensor in best.items()}
        self._context.log(f"Training goes on at update {self._course.done} of {decisions.steps}.")
        return decisions


def _feeder(data: Dataset, names: tuple[str, ...], settings: Training, *, seed: int, fixed: int | None) -> Feeder:
    """Batches of the size asked for, or as many samples as there are; of a fixed size, a whole number of times."""
    access = RandomAccess(data, training_split(data))
    batch = min(settings.batch_size, len(access))
    if fixed is not None:
        batch = max(batch // fixed, 1) * fixed
    if batch > len(access):
        text = f"The network takes {fixed} samples at once, and the {access.split} split has {len(access)}."
        raise ModelpressError("missing_data", text)
    augmenter = Augmenter(settings.augment, image_inputs(data), seed)
    return Feeder(access, names, batch=batch, seed=seed, augmenter=augmenter)


@contextmanager
def _kept_threads() -> Iterator[None]:
    """A replay may set the number of threads; what comes after has its own again."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
