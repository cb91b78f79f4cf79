"""Whether a teacher helped: two students, trained equally with it and without it, on the same samples."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.compression.logits import logits_of
from core.compression.train.feeding import fixed_batch
from core.compression.train.losses import LOSSES
from core.data.dataset import Dataset
from core.description import SplitName, Task
from core.errors import ModelpressError
from core.findings import make_finding
from core.measure.intervals import compare_means, compare_proportions
from core.network.network import Network
from core.verdict import Finding

# Samples that are compared at most.
MOST = 5000
BATCH = 128

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exam:
    """Where two students are compared, and by what."""

    task: Task
    split: SplitName

    @property
    def word(self) -> str:
        """What a score is: 1 for each right answer, or a loss."""
        return "accuracy" if self.task == "classification" else "loss"


def open_exam(dataset: Dataset) -> Exam:
    """Evaluation where it has labels, since nothing is chosen by the outcome; else validation.

    Raises `missing_data` without labels or without a loss for the task: a student alone would have nothing to learn.
    """
    for split in ("evaluation", "validation"):
        if dataset.labelled(split) and dataset.task in LOSSES:
            return Exam(dataset.task, split)
    raise ModelpressError(
        "missing_data", "`compare` needs labels: without a teacher a student learns from nothing else."
    )


def examine(network: Network, dataset: Dataset, exam: Exam) -> Scores:
    """The score of each sample (n,): whether the answer is right, or the loss."""
    size = fixed_batch(network)
    undo = logits_of(network, exam.task)
    scores = []
    for samples in dataset.batches(exam.split, size or BATCH, MOST):
        inputs = tuple(samples.inputs[tensor.name] for tensor in network.inputs)
        if samples.labels is None or (size is not None and len(inputs[0]) < size):
            continue
        with torch.no_grad():
            given = network.graph(*inputs)
        first: Tensor = given if isinstance(given, Tensor) else given[0]
        scores.append(_score(undo(first), samples.labels, exam.task))
    if not scores:
        raise ModelpressError("missing_data", f"The {exam.split} split has too few samples for one batch.")
    return torch.cat(scores).double().numpy()


def judge_teacher(alone: Scores, taught: Scores, exam: Exam, seed: int) -> Finding:
    """What the verdict says: helped, hurt, or no difference that these samples could show."""
    if exam.task == "classification":
        test = compare_proportions(alone > 0, taught > 0)
        helped, hurt = test.low > 0, test.high < 0
    else:
        test = compare_means(alone, taught, seed)
        helped, hurt = test.high < 0, test.low > 0
    said = "helped" if helped else "hurt" if hurt else "made no sure difference"
    return make_finding(
        "teacher_helped" if helped else "teacher_did_not_help",
        f"The teacher {said}: on {len(taught):,} {exam.split} samples the student has {exam.word} "
        f"{taught.mean():.4f} with it and {alone.mean():.4f} alone, trained equally; the difference is "
        f"{test.delta:+.4f} ({test.low:+.4f} … {test.high:+.4f}).",
    )


def _score(found: Tensor, labels: Tensor, task: Task) -> Tensor:
    if task == "classification" and found.dim() == 2:
        return (found.argmax(-1) == labels.flatten()).float()
    return LOSSES[task](found, labels, 0.0)
