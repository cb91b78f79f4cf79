"""What makes a run repeat another: the seed of each step, and the decisions that a `plan.json` has written down."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, JsonValue, ValidationError

from core.compression.context import Emit
from core.errors import ModelpressError
from core.messages import LogMessage, RunJob
from core.versions import versions

Recorded = Mapping[str, JsonValue]


class _Plan(BaseModel):
    versions: dict[str, str]
    steps: tuple[dict[str, JsonValue], ...]


def seed_of_step(seed: int, position: int) -> int:
    """A seed of its own for each step of a job, below 2⁶³."""
    return int.from_bytes(sha256(f"{seed}/{position}".encode()).digest()[:8], "little") >> 1


def read_plan(request: RunJob, emit: Emit) -> tuple[Recorded, ...] | None:
    """What each step decided when the job's plan was written; None without a plan.

    Raises `invalid_request` where the plan is not one, or is that of other methods.
    """
    if request.plan is None:
        return None
    try:
        plan = _Plan.model_validate_json(Path(request.plan.path).read_bytes())
    except ValidationError as error:
        raise ModelpressError("invalid_request", "The plan is no plan.json of a job.", pointer="/plan") from error
    methods = [step.get("method") for step in plan.steps]
    asked = [spec.method for spec in request.recipe.steps]
    if methods != asked:
        sentence = f"The plan is of the steps {json.dumps(methods)}, the recipe has {json.dumps(asked)}."
        raise ModelpressError("invalid_request", sentence, pointer="/plan")
    here = versions()
    changed = [f"{name} {old} is {here.get(name)} now" for name, old in plan.versions.items() if here.get(name) != old]
    if changed:
        text = f"The plan was made by other versions, so the bytes may differ: {'; '.join(changed)}."
        emit(LogMessage(level="warning", text=text))
    return tuple({name: value for name, value in step.items() if name != "method"} for step in plan.steps)
