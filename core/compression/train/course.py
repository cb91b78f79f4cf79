"""What a training has decided before it begins, and how far it is; all of it JSON, for checkpoints and replays."""

from collections.abc import Mapping
from typing import final

from pydantic import BaseModel, ConfigDict, JsonValue

from core.compression.train.validation import Judgement


@final
class Decisions(BaseModel):
    """What decides every bit of the result besides spec, seed, data and network."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lr: float
    lr_from: str
    steps: int
    micro_batch: int
    threads: int
    tried: tuple[tuple[float, float], ...] = ()
    # Where an earlier run was stopped by its clock.
    steps_done: int | None = None


@final
class Course(BaseModel):
    """How far the training is: updates done, seconds spent, and the best judgement with its update."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    done: int = 0
    seconds: float = 0.0
    before: Judgement | None = None
    best: Judgement | None = None
    best_at: int = 0
    stale: int = 0


def read_decisions(recorded: Mapping[str, JsonValue] | None) -> Decisions | None:
    """Those of an earlier run, from `Report.plan`, where a method leaves them under `training`."""
    found = None if recorded is None else recorded.get("training")
    return None if found is None else Decisions.model_validate(found)
