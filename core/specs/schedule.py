"""Pruning in rounds: how many there are, how much each takes, and how what is left is trained after each."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from core.specs.base import Asked
from core.specs.distill import LogitDistillation
from core.specs.train import Finetune

RoundTraining = Annotated[Finetune | LogitDistillation, Field(discriminator="method")]


class Schedule(Asked):
    """Rounds in which what is weak is ranked anew, taken away, and the rest trained."""

    rounds: int = Field(
        ge=2,
        le=100,
        description="How many; one round is what happens without a schedule. Those that would take nothing are left "
        "out.",
    )
    shape: Literal["linear", "cubic"] = Field(
        "cubic",
        description="linear: each round takes as much. cubic: the first ones take most, while there is most to spare "
        "(arXiv 1710.01878, equation 1).",
    )
    train: RoundTraining | None = Field(
        None,
        description="`finetune` or `distill.logits` with its settings, after each round; none: what is left is only "
        "ranked anew.",
    )

    @model_validator(mode="after")
    def _check_student(self) -> Self:
        if isinstance(self.train, LogitDistillation) and (self.train.student is not None or self.train.compare):
            raise ValueError("in rounds the network itself learns: give neither student nor compare")
        return self

    def gone(self, number: int) -> float:
        """Of all that has to go, the share that is gone after a round, which count from 1."""
        return self.gone_at(number / self.rounds)

    def gone_at(self, time: float) -> float:
        """The same at a time between 0 and 1."""
        return time if self.shape == "linear" else 1 - (1 - time) ** 3
