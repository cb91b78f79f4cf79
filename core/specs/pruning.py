"""What all methods of pruning have in common: what may be left, and in how many rounds it comes to that."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from core.description import ModelDescription
from core.specs.base import Capability, Family, Needs, Spec, WorksOn
from core.specs.budgets import Kept
from core.specs.schedule import Schedule

# Samples that a drop is measured on at most.
JUDGED_SAMPLES = 1024
_SCHEDULE = (
    "Instead of at once, in rounds: rank, take away, train, and again. Shares are of what the step began with. Of a "
    "budget of `max_drop`, a round that costs too much is undone, and the next one takes less."
)


class Pruning(Spec):
    """A step that takes something away until a budget holds."""

    family: ClassVar[Family] = "prune"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    works_on: ClassVar[WorksOn] = "network"

    keep: Kept
    schedule: Schedule | None = Field(None, description=_SCHEDULE)

    @abstractmethod
    def ranking_samples(self) -> int:
        """How many calibration samples one ranking runs at most; 0 where it needs no data."""

    def calibration_samples(self) -> int:
        """Those of a ranking, and those that a drop may be measured on."""
        return max(self.ranking_samples(), JUDGED_SAMPLES if self.spends_drop else 0)

    @property
    def spends_drop(self) -> bool:
        """Whether quality is the budget."""
        return self.keep.measure == "max_drop"

    def needed(self) -> Needs:
        """Data that is not drawn where networks are trained or judged by their quality."""
        train = None if self.schedule is None else self.schedule.train
        if train is not None:
            return Needs(data=True, labels=train.needs_labels(), training=True)
        return self.needs.model_copy(update={"synthetic": not self.spends_drop})

    def references(self) -> dict[str, str]:
        """Those of the training in rounds."""
        if self.schedule is None or self.schedule.train is None:
            return {}
        return {f"schedule/train/{place}": name for place, name in self.schedule.train.references().items()}

    def suits(self, description: ModelDescription, others: Mapping[str, ModelDescription]) -> Capability:
        """Besides, the training in rounds must suit the model."""
        if self.schedule is not None and self.schedule.train is not None:
            found = self.schedule.train.suits(description, others)
            if not found.ok:
                return found
        return self.requires(description)
