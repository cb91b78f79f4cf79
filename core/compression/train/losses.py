"""The loss of each task against labels."""

from collections.abc import Callable, Mapping
from typing import final

import torch.nn.functional as F
from torch import Tensor

from core.compression.logits import Undo, unchanged
from core.compression.train.objective import Answers, Objective, TrainingBatch
from core.data.tokens import IGNORED
from core.description import Task
from core.errors import ModelpressError

# Errors beyond this are weighed by their size instead of their square, so that outliers do not rule.
HUBER_DELTA = 1.0

Loss = Callable[[Tensor, Tensor, float], Tensor]


def classify(found: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy in nats (n,) of logits (n, …, classes) and classes (n, …), mean over what is judged of a sample.

    `smoothing` spreads a share of each label over all classes (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """
    losses = F.cross_entropy(
        found.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
    )
    losses, judged = losses.reshape(len(found), -1), labels.reshape(len(found), -1) != IGNORED
    return losses.sum(1) / judged.sum(1).clamp_min(1)


def tell_apart(found: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy (n,) of logits (n, classes), each class for itself; smoothing draws labels to a half."""
    wanted = labels.to(found.dtype) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(found, wanted, reduction="none").flatten(1).mean(1)


def come_near(found: Tensor, labels: Tensor, _smoothing: float) -> Tensor:
    """Squared error (n,) of values (n, …)."""
    return _each(F.mse_loss, found, labels)


def come_near_most(found: Tensor, labels: Tensor, _smoothing: float) -> Tensor:
    """Huber's loss (n,) of values (n, …) (Huber 1964): squared where the error is below 1, else linear."""
    return _each(F.huber_loss, found, labels, delta=HUBER_DELTA)


LOSSES: Mapping[Task, Loss] = {
    "classification": classify,
    "token_classification": classify,
    "language_modelling": classify,
    "multi_label": tell_apart,
    "regression": come_near,
}


@final
class TaskObjective(Objective):
    """The loss of a task on the first output."""

    def __init__(self, task: Task, *, smoothing: float = 0.0, robust: bool = False, undo: Undo = unchanged) -> None:
        """`undo` brings answers to logits. Raises `missing_data` for a task whose labels no loss is known for."""
        super().__init__()
        if task not in LOSSES:
            raise ModelpressError(
                "missing_data",
                f"Nothing can be learnt from the labels of the task `{task}`.",
                hint=f"Training needs one of the tasks {', '.join(LOSSES)}.",
            )
        self._loss = come_near_most if robust and task == "regression" else LOSSES[task]
        self._smoothing, self._undo = smoothing, undo

    def forward(self, answers: Answers, batch: TrainingBatch) -> Tensor:
        """Mean over the samples; without smoothing where samples are judged, not trained on."""
        if batch.labels is None:
            raise ModelpressError("missing_data", f"The {batch.split} split has no labels to learn from.")
        smoothing = 0.0 if batch.split == "validation" else self._smoothing
        return self._loss(self._undo(answers.outputs[0]), batch.labels, smoothing).mean()


def _each(loss: Callable[..., Tensor], found: Tensor, labels: Tensor, **settings: float) -> Tensor:
    """A loss of each sample; labels (n,) suit answers (n, 1)."""
    wanted = labels.to(found.dtype).reshape(found.shape)
    return loss(found, wanted, reduction="none", **settings).reshape(len(found), -1).mean(1)
