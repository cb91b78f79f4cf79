"""What pruning may leave: exactly one number, a share of what the step is given or an absolute one."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from core.specs.base import OneOf

Share = Annotated[float, Field(gt=0, lt=1)]
# Below 1 a share of what the step is given, from 1 on a number.
ShareOrNumber = Annotated[float, Field(gt=0)]

Cost = Literal["parameters", "macs", "bytes"]
COSTS: tuple[Cost, ...] = get_args(Cost)

_EITHER = "below 1 as a share, from 1 on as their number"
_DROP = (
    "Instead of a size, as much goes as the quality allows: on the validation split, or on calibration samples where "
    "there is none, it falls by no more than this, in the metric's own unit, against what the step is given. Without "
    "labels the quality is how well the answers agree."
)
_HOW = "predicted for the worker's CPU from times of single operators, then measured and corrected."
_TIME_SHARE = f"Share of the median time of a run at the first batch size of the target: {_HOW}"
_TIME = f"Median time of a run at the first batch size of the target, in milliseconds: {_HOW}"
_MEASURED_SHARE = "Share of the median time of a run at the first batch size of the target, as it is measured."
_MEASURED = "Median time of a run at the first batch size of the target, as it is measured, in milliseconds."


MaxDrop = Annotated[float | None, Field(ge=0, description=_DROP)]


class Kept(OneOf):
    """One number of what may be left; a bare number stands for a share of `shorthand`."""

    shorthand: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: object) -> object:
        """A bare number is valid, too."""
        return {cls.shorthand: value} if isinstance(value, int | float) else value

    @classmethod
    def of(cls, measure: str, amount: float) -> Self:
        """So much of one measure."""
        return cls.model_validate({measure: amount})

    @property
    def is_share(self) -> bool:
        """Whether the amount is relative to what the step is given; a drop never is."""
        return self.measure not in ("max_drop", "latency_ms") and self.amount < 1

    @property
    def share(self) -> float | None:
        """The share that may be left; None for absolute numbers and drops."""
        return self.amount if self.is_share else None

    def most(self, whole: float) -> float:
        """The amount that may be left of `whole`, in the unit of the measure."""
        return self.amount * whole if self.is_share else self.amount


class MaskBudget(Kept):
    """What masks may leave of the weights."""

    shorthand: ClassVar[str] = "weights"

    weights: Share | None = Field(None, description="Share of the weights of all layers that are pruned.")
    bytes: ShareOrNumber | None = Field(
        None,
        description=f"Bytes of all weights and biases in the file, positions included, {_EITHER}; the graph comes on "
        "top.",
    )
    max_drop: MaxDrop = None


class ChannelBudget(Kept):
    """What may be left of a network that loses channels."""

    shorthand: ClassVar[str] = "macs"

    macs: ShareOrNumber | None = Field(None, description=f"Multiply-adds of one sample, {_EITHER}.")
    parameters: ShareOrNumber | None = Field(None, description=f"Parameters, {_EITHER}.")
    bytes: ShareOrNumber | None = Field(
        None, description=f"Bytes of all weights and biases in the file, {_EITHER}; the graph comes on top."
    )
    latency: Share | None = Field(None, description=_TIME_SHARE)
    latency_ms: float | None = Field(None, gt=0, description=_TIME)
    max_drop: MaxDrop = None


class BlockBudget(Kept):
    """What may be left of a network that loses blocks."""

    shorthand: ClassVar[str] = "blocks"

    blocks: Share | None = Field(None, description="Share of the blocks; at least one goes and one stays.")
    macs: ShareOrNumber | None = Field(None, description=f"Multiply-adds of one sample, {_EITHER}.")
    parameters: ShareOrNumber | None = Field(None, description=f"Parameters, {_EITHER}.")
    latency: Share | None = Field(None, description=_MEASURED_SHARE)
    latency_ms: float | None = Field(None, gt=0, description=_MEASURED)
    max_drop: MaxDrop = None


# What a measure is called in sentences.
WORDS: Mapping[str, str] = {
    "weights": "weights",
    "blocks": "blocks",
    "parameters": "parameters",
    "macs": "multiply-adds",
    "bytes": "bytes of weights",
    "latency": "time of a run",
    "latency_ms": "milliseconds of a run",
}
