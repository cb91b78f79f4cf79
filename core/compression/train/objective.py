"""What training makes smaller: one number from the answers of the network and the batch that it answered."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from core.description import SplitName


@dataclass(frozen=True, slots=True)
class Answers:
    """What the network gave for one batch: its outputs in order, and by name the values that were watched."""

    outputs: tuple[Tensor, ...]
    watched: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """`inputs` in the order of the network's, each (n, …); `labels` as in `core.data.dataset.Batch`.

    `rows` (n,) int64 are the positions of the samples in `split`. What was remembered of a row does not fit inputs
    that are `augmented`.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    rows: Tensor
    split: SplitName = "train"
    augmented: bool = False


class Objective(nn.Module, ABC):
    """A loss. Parameters of its own are trained along, kept in checkpoints, and dropped at the end."""

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of nodes of the network's graph whose values are wanted besides its outputs."""
        return ()

    @abstractmethod
    def forward(self, answers: Answers, batch: TrainingBatch) -> Tensor:
        """A scalar: the mean over the samples of the batch, so that parts of a batch add up to the whole."""
