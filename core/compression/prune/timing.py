"""How long a run was to take after pruning, and how long it takes: what a plan, a log and the metrics tell."""

from typing import final

from pydantic import BaseModel

from core.compression.context import Context
from core.findings import make_finding
from core.measure.network_latency import Measured
from core.specs.budgets import Kept
from core.verdict import Finding

# Measures of a budget that are times.
TIMES = frozenset({"latency", "latency_ms"})


@final
class Timing(BaseModel):
    """What was asked, predicted and measured of a run at the first batch size, in milliseconds.

    Nothing is predicted where all that is tried is measured. `reached` counts what noise may have put above the budget.
    """

    asked_ms: float
    predicted_ms: float | None = None
    measured_ms: float
    original_ms: float
    reached: bool
    runtime: str

    @classmethod
    def of(cls, keep: Kept, measured: Measured, runtime: str, predicted_ms: float | None = None) -> "Timing":
        """From a budget and a measurement; a share is of the time that the original took meanwhile."""
        asked = keep.most(measured.original_ms)
        return cls(
            asked_ms=asked,
            predicted_ms=predicted_ms,
            measured_ms=measured.median_ms,
            original_ms=measured.original_ms,
            reached=measured.interval.low * measured.original_ms <= asked,
            runtime=runtime,
        )

    @property
    def load(self) -> float:
        """The time as a share of what was asked for."""
        return self.measured_ms / self.asked_ms

    def tell(self, context: Context) -> None:
        """To the log and the metrics of a job."""
        predicted = "" if self.predicted_ms is None else f"{self.predicted_ms:.4g} ms were predicted, "
        context.log(
            f"A run may take {self.asked_ms:.4g} ms in {self.runtime}; {predicted}{self.measured_ms:.4g} ms were "
            f"measured, and {self.original_ms:.4g} ms before."
        )
        for name in ("asked_ms", "predicted_ms", "measured_ms"):
            if (value := getattr(self, name)) is not None:
                context.metric(f"latency_{name}", value, unit="ms")

    def missed(self) -> Finding:
        """What is said where nothing that may be is fast enough."""
        text = (
            f"A run of {self.asked_ms:.4g} ms was asked for, and the fastest network that may be takes "
            f"{self.measured_ms:.4g} ms in {self.runtime}: what is protected, or has to stay, takes its time."
        )
        return make_finding("pruning_goal_missed", text)
