"""What a method is given besides the network and its spec: data, wishes, and a way to say how far it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from pydantic import JsonValue
from torch import Tensor

from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.messages import LogMessage, Message, MetricMessage, ProgressMessage
from core.network.network import Network
from core.specs.recipe import Constraints, Target

Emit = Callable[[Message], None]
Level = Literal["debug", "info", "warning", "error"]

LOG_LIMIT = 4000
MESSAGE_LIMIT = 500


class StepCheckpoint(ABC):
    """Where a long step leaves its state, so that another run can go on from there to the same bytes."""

    @abstractmethod
    def restore(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]] | None:
        """The tensors and facts that `keep` was last given; None at a fresh start."""

    @abstractmethod
    def due(self) -> bool:
        """Whether it is time to call `keep` again; ask between two batches."""

    @abstractmethod
    def keep(self, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> None:
        """Write down all that the step needs to go on from here; replaces what was kept before."""


@final
class NoCheckpoint(StepCheckpoint):
    """Keeps nothing: for direct use and for tests."""

    def restore(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]] | None:
        """Nothing was kept."""
        return None

    def due(self) -> bool:
        """It is never time."""
        return False

    def keep(self, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> None:
        """Forget it."""


@final
@dataclass(frozen=True)
class Context:
    """Of one step of a job. `threads` are those of the target; whatever is random starts from `seed`."""

    step: str
    index: int
    dataset: Dataset | None
    target: Target
    constraints: Constraints
    seed: int
    emit: Emit
    # Where the step begins and ends, as fractions of the whole job.
    span: tuple[float, float] = (0.0, 1.0)
    checkpoint: StepCheckpoint = field(default_factory=NoCheckpoint)
    # What an earlier run of this step decided (its `Report.plan`): a method follows it instead of clock or probe.
    recorded: Mapping[str, JsonValue] | None = None
    # The network that the job began with, and by id the other ones that the recipe names; None for steps on files.
    original: Network | None = None
    models: Mapping[str, Network] = field(default_factory=dict)
    # Whether it is wanted what each layer costs alone: not of what is only tried, nor again in every round of a step.
    alone: bool = True
    # The network that a step of rounds began with, which shares are of; None where there are no rounds.
    began: Network | None = None

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the step is, 0 … 1."""
        begin, end = self.span
        share = begin + (end - begin) * min(max(fraction, 0.0), 1.0)
        self.emit(ProgressMessage(step=self.index, method=self.step, fraction=share, message=message[:MESSAGE_LIMIT]))

    def log(self, text: str, level: Level = "info") -> None:
        """Add a line to the job's log."""
        self.emit(LogMessage(level=level, step=self.step, text=text[:LOG_LIMIT]))

    def metric(
        self,
        name: str,
        value: float,
        *,
        unit: str = "",
        split: str | None = None,
        layer: str = "",
        at: float | None = None,
    ) -> None:
        """Add a number to the job's metrics; `layer` names the layer it is about, `at` its place in a series."""
        conditions: dict[str, JsonValue] = {"layer": layer} if layer else {}
        if at is not None:
            # Two steps of one method have a curve each.
            conditions["position"] = self.index
        self.emit(
            MetricMessage(
                name=name,
                value=value,
                unit=unit,
                split=split,
                step=self.step,
                at=at,
                conditions=conditions,
            )
        )

    def needed_dataset(self) -> Dataset:
        """The data set of the job; raises `missing_data` when it has none."""
        if self.dataset is None:
            raise ModelpressError("missing_data", f"{self.step} needs a data set.", step=self.step)
        return self.dataset
