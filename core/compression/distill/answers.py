"""The objective of learning a teacher's answers, beside the labels where there are some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch.nn.functional as F
from torch import Tensor

from core.compression.distill import softened
from core.compression.distill.teachers import Teachers
from core.compression.logits import CLASS_TASKS, Undo
from core.compression.train.losses import LOSSES, TaskObjective
from core.compression.train.objective import Answers, Objective, TrainingBatch
from core.data.tokens import IGNORED
from core.description import Task

AnswerKind = Literal["hinton", "dkd", "dist"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a student's answers are compared with those of its teachers; `beta` is for dkd only."""

    kind: AnswerKind = "hinton"
    temperature: float = 4.0
    beta: float = 8.0

    def for_task(self, task: Task) -> Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor]:
        """The loss of answers (n, …) to those of the teachers, and labels or None; a mean over the samples."""
        if task in CLASS_TASKS:
            return self._compare_classes
        return _compare_each if task == "multi_label" else _compare_values

    def _compare_classes(self, found: Tensor, said: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """Logits (n, …, classes): every place of a sample that is judged counts as a sample."""
        found, said = found.flatten(0, -2), [each.flatten(0, -2) for each in said]
        target = None if labels is None else labels.flatten()
        if target is not None and bool((target == IGNORED).any()):
            judged = target != IGNORED
            found, said, target = found[judged], [each[judged] for each in said], target[judged]
        if not len(found):
            return found.sum()
        wanted = softened.soften(said, self.temperature)
        if self.kind == "dist":
            return softened.correlation(found, wanted, self.temperature)
        if self.kind == "dkd" and found.shape[-1] > 1:
            target = wanted.argmax(-1) if target is None else target
            return softened.decoupled(found, wanted, target, self.temperature, beta=self.beta)
        return softened.hinton(found, wanted, self.temperature)


def _compare_each(found: Tensor, said: Sequence[Tensor], _labels: Tensor | None) -> Tensor:
    return softened.hinton_of_each(found, softened.soften_each(said))


def _compare_values(found: Tensor, said: Sequence[Tensor], _labels: Tensor | None) -> Tensor:
    """Squared error to the mean of what the teachers say."""
    return F.mse_loss(found, sum(said[1:], said[0]) / len(said))


@final
class AnswerLoss:
    """label_weight · loss on labels + teacher_weight · distance to the teachers' answers."""

    def __init__(
        self, comparison: Comparison, task: Task, weights: tuple[float, float], *, smoothing: float, undo: Undo
    ) -> None:
        """`weights` are those of labels and teachers, `smoothing` is of the labels; `undo` brings answers to logits."""
        self._undo = undo
        self._compare = comparison.for_task(task)
        self._label_weight, self._teacher_weight = weights
        self._labels = TaskObjective(task, smoothing=smoothing) if task in LOSSES and weights[0] else None

    def measure(self, answers: Answers, batch: TrainingBatch, said: Sequence[Tensor]) -> Tensor:
        """The loss of a batch; `said` are the teachers' logits. Without labels, the second part alone."""
        answers = Answers((self._undo(answers.outputs[0]), *answers.outputs[1:]), answers.watched)
        loss = self._teacher_weight * self._compare(answers.outputs[0], said, batch.labels)
        if self._labels is not None and batch.labels is not None:
            loss = loss + self._label_weight * self._labels(answers, batch)
        return loss


@final
class AnswerObjective(Objective):
    """Answers alone are compared."""

    def __init__(self, teachers: Teachers, loss: AnswerLoss) -> None:
        super().__init__()
        self._teachers, self._loss = teachers, loss

    def forward(self, answers: Answers, batch: TrainingBatch) -> Tensor:
        """The loss of a batch."""
        return self._loss.measure(answers, batch, [each.outputs[0] for each in self._teachers.ask(batch)])
