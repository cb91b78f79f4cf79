"""How good a network is while it is trained, on samples that it does not learn from."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from core.compression.logits import Undo, unchanged
from core.compression.train.feeding import on_device
from core.compression.train.mount import TrainableNetwork
from core.compression.train.objective import Objective, TrainingBatch
from core.compression.yardstick import higher_is_better, judge_labels
from core.data.access import RandomAccess
from core.data.dataset import Dataset
from core.description import SplitName

SPLIT: SplitName = "validation"
# Samples that are judged at most.
MOST = 5000
BATCH = 128


@dataclass(frozen=True, slots=True)
class Judgement:
    """Mean loss of the objective, and where there are labels the quality in the task's unit and direction."""

    loss: float
    quality: float | None = None
    higher: bool = True

    def beats(self, other: "Judgement") -> bool:
        """By quality first, then by loss; what is not finite beats nothing."""
        if not np.isfinite(self.loss):
            return False
        if self.quality is None or other.quality is None or self.quality == other.quality:
            return self.loss < other.loss or not np.isfinite(other.loss)
        return (self.quality > other.quality) is self.higher


@final
class Examiner:
    """Judges a mounted network on the validation split."""

    def __init__(
        self, dataset: Dataset, names: tuple[str, ...], *, fixed_batch: int | None, undo: Undo = unchanged
    ) -> None:
        """`names` are the network's inputs in order, `undo` brings its answers to logits.

        A network of a fixed batch size leaves out what fills none.
        """
        self._access = RandomAccess(dataset, SPLIT)
        self._task = dataset.task
        self._names, self._undo = names, undo
        self._batch = fixed_batch or BATCH
        count = min(len(self._access), MOST)
        self.samples = count - count % fixed_batch if fixed_batch else count

    def judge(self, mounted: TrainableNetwork, objective: Objective, device: torch.device) -> Judgement:
        """Loss and quality of the network as it would be exported; leaves batch norms in eval mode."""
        mounted.follow_batches(follow=False)
        loss = quality = 0.0
        labelled = False
        with torch.no_grad():
            for start in range(0, self.samples, self._batch):
                batch = on_device(self._take(start), device)
                answers = mounted(*batch.inputs)
                count = len(batch.rows)
                loss += float(objective(answers, batch)) * count
                logits = self._undo(answers.outputs[0])
                judged = None if batch.labels is None else judge_labels(self._task, logits, batch.labels)
                if judged is not None:
                    labelled = True
                    quality += judged[1] * count
        higher = higher_is_better(self._task, labelled=labelled)
        return Judgement(loss / self.samples, quality / self.samples if labelled else None, higher)

    def _take(self, start: int) -> TrainingBatch:
        rows = np.arange(start, min(start + self._batch, self.samples), dtype=np.int64)
        found = self._access.take(rows)
        inputs = tuple(found.inputs[name] for name in self._names)
        return TrainingBatch(inputs, found.labels, torch.from_numpy(rows), SPLIT)
