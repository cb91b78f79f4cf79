"""Judges networks while a method chooses, on a fixed set of samples that is not the evaluation split."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from core.compression.logits import logits_of
from core.data.dataset import Dataset
from core.data.tokens import IGNORED
from core.description import SplitName, Task
from core.errors import ModelpressError
from core.network.network import Network

BATCH = 64
_TINY = 1e-30
# Told instead of infinity when nothing differs.
SQNR_OF_EQUAL_DB = 200.0

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Score:
    """`loss` in nats (or squared error), `quality` in the verdict's unit, `sqnr_db` against the original.

    Embeddings are judged by their cosine with the original's, since a rank correlation needs all pairs.
    """

    loss: float
    quality: float
    sqnr_db: float


def choosing_split(dataset: Dataset) -> SplitName:
    """The split on which choices are made: validation, or calibration where there is none; never evaluation."""
    for split in ("validation", "calibration"):
        if dataset.count(split):
            return split
    raise ModelpressError("missing_data", "The data set has neither validation nor calibration samples.")


def input_batches(
    network: Network, dataset: Dataset, split: SplitName, *, limit: int, batch: int = BATCH
) -> Iterator[Inputs]:
    """The inputs of the first `limit` samples, in the order in which the network takes them.

    A network bound to its batch size gets one batch at least, where there is one.
    """
    size = network.inputs[0].shape[0] if network.inputs[0].shape else batch
    if isinstance(size, int):
        limit = max(limit, size)
    for samples in dataset.batches(split, size if isinstance(size, int) else batch, limit):
        inputs = tuple(samples.inputs[tensor.name] for tensor in network.inputs)
        # A network bound to its batch size cannot take the rest of a split.
        if not isinstance(size, int) or inputs[0].shape[0] == size:
            yield inputs


@final
class Yardstick:
    """Scores networks against labels, or against the original network where there are none or they are not wanted."""

    def __init__(
        self, original: Network, dataset: Dataset, *, split: SplitName, limit: int, labelled: bool = True
    ) -> None:
        self.split = split
        self._task = dataset.task
        self._undo = logits_of(original, dataset.task)
        self._inputs = list(input_batches(original, dataset, split, limit=limit))
        self._labels: list[Tensor | None] = [None] * len(self._inputs)
        if labelled and dataset.labelled(split):
            size = self._inputs[0][0].shape[0] if self._inputs else BATCH
            labels = (batch.labels for batch in dataset.batches(split, size, max(limit, size)))
            self._labels = [label for label, _ in zip(labels, self._inputs, strict=False)]
        self._wanted = [_first_output(original, inputs) for inputs in self._inputs]
        if not self._inputs:
            raise ModelpressError("missing_data", f"The {split} split has too few samples for one batch.")
        self.original = self.score(original)

    @property
    def samples(self) -> int:
        """How many samples a score is made from."""
        return sum(inputs[0].shape[0] for inputs in self._inputs)

    def outputs(self, network: Network, batches: int) -> Tensor:
        """The first outputs for the first batches."""
        return torch.cat([_first_output(network, inputs) for inputs in self._inputs[:batches]])

    def score(self, network: Network) -> Score:
        """Loss, quality and signal to noise of a network on all samples."""
        loss = quality = noise = signal = 0.0
        undo = logits_of(network, self._task)
        for inputs, labels, wanted in zip(self._inputs, self._labels, self._wanted, strict=True):
            found = _first_output(network, inputs)
            count = found.shape[0]
            batch_loss, batch_quality = self._judge(undo(found), labels, self._undo(wanted))
            loss += batch_loss * count
            quality += batch_quality * count
            signal += float(wanted.double().square().sum())
            noise += float((found.double() - wanted.double()).square().sum())
        return Score(loss / self.samples, quality / self.samples, _ratio_db(signal, noise))

    def drop(self, score: Score) -> float:
        """How much worse than the original, in the unit of the quality metric; negative when better."""
        change = self.original.quality - score.quality
        return change if self._higher_is_better else -change

    @property
    def _higher_is_better(self) -> bool:
        return higher_is_better(self._task, labelled=self._labels[0] is not None)

    def _judge(self, found: Tensor, labels: Tensor | None, wanted: Tensor) -> tuple[float, float]:
        """Loss and quality of one batch."""
        judged = None if labels is None else judge_labels(self._task, found, labels)
        if judged is not None:
            return judged
        if self._task in ("classification", "language_modelling"):
            logits, reference = found.flatten(0, -2), wanted.flatten(0, -2)
            loss = float(F.kl_div(logits.log_softmax(-1), reference.softmax(-1), reduction="batchmean"))
            if self._task == "classification":
                return loss, float((logits.argmax(-1) == reference.argmax(-1)).float().mean())
            return loss, loss / math.log(2)
        if self._task == "embedding":
            alike = float(F.cosine_similarity(found, wanted, dim=-1).mean())
            return 1 - alike, alike
        difference = (found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1).clamp_min(_TINY)
        return float(difference.square().mean()), float(difference.mean())


def _ratio_db(signal: float, noise: float) -> float:
    """Signal over noise in decibels, at most `SQNR_OF_EQUAL_DB`; no number where the noise is none."""
    if not noise:
        return SQNR_OF_EQUAL_DB
    if not math.isfinite(noise):
        return math.nan
    return min(10 * math.log10(max(signal, _TINY) / noise), SQNR_OF_EQUAL_DB)


def higher_is_better(task: Task, *, labelled: bool) -> bool:
    """Whether more of a task's quality, as told here, is better."""
    if task in ("multi_label", "token_classification"):
        return labelled
    return task in ("classification", "embedding")


def judge_labels(task: Task, found: Tensor, labels: Tensor) -> tuple[float, float] | None:
    """Loss and quality of answers (n, …) against labels, means over the batch; None where a task has no such labels."""
    judge = _OF_LABELS.get(task)
    return None if judge is None else judge(found, labels)


def _judge_classes(found: Tensor, labels: Tensor) -> tuple[float, float]:
    """Cross entropy and share of right answers; found (n, …, classes), labels (n, …)."""
    logits, answers = found.flatten(0, -2), labels.flatten()
    return float(F.cross_entropy(logits, answers)), float((logits.argmax(-1) == answers).float().mean())


def _judge_text(found: Tensor, labels: Tensor) -> tuple[float, float]:
    """Cross entropy in nats and in bits per token; found (n, tokens, classes), labels (n, tokens)."""
    loss = float(F.cross_entropy(found.flatten(0, -2), labels.flatten()))
    return loss, loss / math.log(2)


def _judge_values(found: Tensor, labels: Tensor) -> tuple[float, float]:
    error = float(F.mse_loss(found.flatten(), labels.flatten()))
    return error, error


def _judge_many(found: Tensor, labels: Tensor) -> tuple[float, float]:
    """Cross entropy of each class, and the mean of each sample's F1; both (n, classes)."""
    chosen, wanted = found > 0, labels > 0
    both, total = (chosen & wanted).sum(1), chosen.sum(1) + wanted.sum(1)
    f1 = torch.where(total > 0, 2 * both / total.clamp_min(1), 1.0)
    return float(F.binary_cross_entropy_with_logits(found, labels)), float(f1.mean())


def _judge_tokens(found: Tensor, labels: Tensor) -> tuple[float, float]:
    """Cross entropy and share of right tokens; found (n, tokens, classes), labels (n, tokens)."""
    logits, judged = found.flatten(0, -2), labels.flatten() != IGNORED
    if not bool(judged.any()):
        return 0.0, 1.0
    logits, answers = logits[judged], labels.flatten()[judged]
    return float(F.cross_entropy(logits, answers)), float((logits.argmax(-1) == answers).float().mean())


_OF_LABELS: Mapping[Task, Callable[[Tensor, Tensor], tuple[float, float]]] = {
    "classification": _judge_classes,
    "language_modelling": _judge_text,
    "regression": _judge_values,
    "multi_label": _judge_many,
    "token_classification": _judge_tokens,
}


def _first_output(network: Network, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        found = network.graph(*inputs)
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first
