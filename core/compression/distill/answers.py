"""The objective of learning a teacher's answers, beside the labels where there are some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch.nn.functional as F
from torch import Tensor

from core.compression.distill import softened
from core.compression.distill.padding import find_mask, judged_places, real_tokens
from core.compression.distill.teachers import Teachers
from core.compression.logits import CLASS_TASKS, logits_of
from core.compression.train.losses import LOSSES, TaskObjective
from core.compression.train.objective import Answers, Objective, TrainingBatch
from core.description import Task
from core.network.network import Network

AnswerKind = Literal["hinton", "dkd", "dist"]
Compare = Callable[[Tensor, Sequence[Tensor], Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a student's answers are compared with those of its teachers; `beta` is for dkd only."""

    kind: AnswerKind = "hinton"
    temperature: float = 4.0
    beta: float = 8.0

    def for_task(self, task: Task) -> Compare:
        """The loss of answers (n, …) to those of the teachers, labels or None, and what is judged (n, …) or None."""
        if task in CLASS_TASKS:
            return self._compare_classes
        return _compare_each if task == "multi_label" else _compare_values

    def _compare_classes(
        self, found: Tensor, said: Sequence[Tensor], labels: Tensor | None, judged: Tensor | None = None
    ) -> Tensor:
        """Logits (n, …, classes): the mean over samples of the mean over what is judged of each, as with labels."""
        count, shares = len(found), None
        found, said = found.flatten(0, -2), [each.flatten(0, -2) for each in said]
        target = None if labels is None else labels.flatten()
        if judged is not None and not bool(judged.all()):
            judged = judged.reshape(count, -1)
            shares = (judged / (judged.sum(1, keepdim=True).clamp_min(1) * count))[judged].to(found.dtype)
            chosen = judged.flatten()
            found, said = found[chosen], [each[chosen] for each in said]
            target = None if target is None else target[chosen]
        if not len(found):
            return found.sum()
        wanted = softened.soften(said, self.temperature)
        if self.kind == "dist":
            return softened.correlation(found, wanted, self.temperature, shares)
        if self.kind == "dkd" and found.shape[-1] > 1:
            asked = softened.Decoupling(wanted.argmax(-1) if target is None else target, self.beta)
            return softened.decoupled(found, wanted, asked, self.temperature, shares)
        return softened.hinton(found, wanted, self.temperature, shares)


def _compare_each(
    found: Tensor, said: Sequence[Tensor], _labels: Tensor | None, _judged: Tensor | None = None
) -> Tensor:
    return softened.hinton_of_each(found, softened.soften_each(said))


def _compare_values(
    found: Tensor, said: Sequence[Tensor], _labels: Tensor | None, _judged: Tensor | None = None
) -> Tensor:
    """Squared error to the mean of what the teachers say."""
    return F.mse_loss(found, sum(said[1:], said[0]) / len(said))


@final
class AnswerLoss:
    """label_weight · loss on labels + teacher_weight · distance to the teachers' answers."""

    def __init__(
        self, comparison: Comparison, task: Task, weights: tuple[float, float], *, smoothing: float, student: Network
    ) -> None:
        """`weights` are those of labels and teachers, `smoothing` is of the labels."""
        self._undo = logits_of(student, task)
        self._mask = find_mask(student)
        self._compare = comparison.for_task(task)
        self._label_weight, self._teacher_weight = weights
        self._labels = TaskObjective(task, smoothing=smoothing) if task in LOSSES and weights[0] else None

    def real_tokens(self, batch: TrainingBatch, value: Tensor) -> Tensor | None:
        """Of each token of inner values (n, channels, tokens) whether it is none of the padding; None if unknown."""
        return real_tokens(batch, self._mask, (value.shape[0], *value.shape[2:]))

    def measure(self, answers: Answers, batch: TrainingBatch, said: Sequence[Tensor]) -> Tensor:
        """The loss of a batch; `said` are the teachers' logits. Without labels, the second part alone."""
        answers = Answers((self._undo(answers.outputs[0]), *answers.outputs[1:]), answers.watched)
        found = answers.outputs[0]
        judged = judged_places(batch, self._mask, found.shape[:-1])
        loss = self._teacher_weight * self._compare(found, said, batch.labels, judged)
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
