"""Those who are learned from: networks that are asked for their answers, which are remembered where memory allows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from core.compression.logits import logits_of
from core.compression.train.mount import TrainableNetwork
from core.compression.train.objective import Answers, TrainingBatch
from core.data.dataset import Dataset
from core.description import SplitName
from core.network.network import Network

# What remembered answers of one split may take, in bytes.
REMEMBERED_BYTES = 256 * 2**20


@final
class Teachers:
    """Networks that are only asked. No module, so that an objective that holds them does not train or keep them."""

    def __init__(
        self,
        networks: Sequence[Network],
        watched: tuple[str, ...] = (),
        *,
        dataset: Dataset,
        log: Callable[[str], None] = lambda _: None,
        remembered_bytes: int = REMEMBERED_BYTES,
    ) -> None:
        """`watched` names nodes of every network, `dataset` is what they are asked about; `log` hears what is kept."""
        self._mounted = [TrainableNetwork(network, watched).requires_grad_(requires_grad=False) for network in networks]
        self._undo = [logits_of(network, dataset.task) for network in networks]
        self._count = dataset.count
        self._log = log
        self._bytes = remembered_bytes
        self._memories: dict[SplitName, _Memory | None] = {}

    def ask(self, batch: TrainingBatch) -> list[Answers]:
        """The logits of the first output, and the watched values, of each teacher, without gradients."""
        if batch.augmented:
            # Never the same inputs twice.
            return self._compute(batch)
        memory = self._memories.get(batch.split)
        if memory is not None and bool(memory.known[batch.rows].all()):
            return memory.recall(batch.rows, batch.inputs[0].device)
        answers = self._compute(batch)
        if batch.split not in self._memories:
            self._memories[batch.split] = self._open_memory(batch, answers)
        if (memory := self._memories[batch.split]) is not None:
            memory.keep(batch.rows, answers)
        return answers

    def _compute(self, batch: TrainingBatch) -> list[Answers]:
        found = []
        for mounted, undo in zip(self._mounted, self._undo, strict=True):
            mounted.to(batch.inputs[0].device)
            with torch.no_grad():
                answers = mounted(*batch.inputs)
            found.append(Answers((undo(answers.outputs[0]),), answers.watched))
        return found

    def _open_memory(self, batch: TrainingBatch, answers: list[Answers]) -> "_Memory | None":
        """Room for all answers of a split; None where they are too many."""
        count, samples = self._count(batch.split), len(batch.rows)
        size = sum(_bytes(value) for answer in answers for value in _values(answer)) // max(samples, 1) * count
        if size > self._bytes or not count:
            self._log(
                f"The teacher's answers to the {batch.split} split would take {size:,} bytes, so they are computed "
                "anew for each batch."
            )
            return None
        self._log(f"The teacher's answers to the {batch.split} split are remembered in {size:,} bytes.")
        return _Memory(count, answers)


@final
@dataclass
class _Memory:
    """Answers by row; `like` is a batch of them, whose sizes after the first all others share."""

    count: int
    like: list[Answers]
    known: Tensor = field(init=False)
    _kept: list[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.known = torch.zeros(self.count, dtype=torch.bool)
        self._kept = [
            [torch.empty(self.count, *value.shape[1:], dtype=value.dtype) for value in _values(answer)]
            for answer in self.like
        ]

    def keep(self, rows: Tensor, answers: list[Answers]) -> None:
        """Write answers down; those of other sizes than the first are let go."""
        for kept, answer in zip(self._kept, answers, strict=True):
            values = _values(answer)
            if any(place.shape[1:] != value.shape[1:] for place, value in zip(kept, values, strict=True)):
                return
            for place, value in zip(kept, values, strict=True):
                place[rows] = value.detach().cpu()
        self.known[rows] = True

    def recall(self, rows: Tensor, device: torch.device) -> list[Answers]:
        """The answers for these rows."""
        return [
            Answers(
                (kept[0][rows].to(device),),
                {name: place[rows].to(device) for name, place in zip(answer.watched, kept[1:], strict=True)},
            )
            for answer, kept in zip(self.like, self._kept, strict=True)
        ]


def _values(answer: Answers) -> list[Tensor]:
    return [answer.outputs[0], *answer.watched.values()]


def _bytes(value: Tensor) -> int:
    return math.prod(value.shape) * value.element_size()
