"""How the ranges of activations are chosen from samples."""

from typing import Literal

from pydantic import Field

from core.specs.base import Asked


class Calibration(Asked):
    """How the range of each activation is chosen from calibration samples."""

    method: Literal["minmax", "percentile", "mse", "entropy"] = Field(
        "mse", description="minmax keeps every value; the others clip outliers by their own criterion."
    )
    samples: int = Field(512, ge=1, le=100_000, description="Calibration samples that are run, in samples.")
    percentile: float = Field(
        99.99, gt=50.0, le=100.0, description="Share of values that is kept, in percent; for `percentile` only."
    )
