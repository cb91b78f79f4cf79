"""What `quantize.linear` writes into `plan.json`, and what it follows when a plan is replayed."""

from collections.abc import Sequence

from pydantic import BaseModel, JsonValue, ValidationError

from core.compression.context import Context
from core.compression.quantize.assembly import Plan
from core.compression.quantize.ranges import Range
from core.compression.quantize.saturation import Choice
from core.compression.quantize.weights import Chosen
from core.errors import ModelpressError
from core.verdict import Finding


class RecordedWeights(BaseModel):
    """The weights' grid."""

    choice: Choice
    why: str


class Recorded(BaseModel):
    """What an earlier run has decided."""

    layers: tuple[str, ...]
    ranges: dict[str, Range]
    weights: RecordedWeights
    why_float: str | None = None

    def layers_of(self, candidates: frozenset[str]) -> frozenset[str]:
        """Its layers; raises `invalid_request` where they are not all of this network."""
        if unknown := sorted(set(self.layers) - candidates):
            raise _refuse(f"The plan quantizes layers that are not there: {', '.join(unknown)}.")
        return frozenset(self.layers)

    def ranges_of(self, sources: Sequence[str]) -> dict[str, Range]:
        """Its ranges; raises `invalid_request` where one is missing or is none."""
        if missing := sorted(set(sources) - self.ranges.keys()):
            raise _refuse(f"The plan has no ranges of {', '.join(missing)}.")
        if wrong := [source for source in sources if not self.ranges[source][0] <= 0.0 <= self.ranges[source][1]]:
            raise _refuse(f"The plan's ranges do not hold zero: {', '.join(wrong)}.")
        return {source: self.ranges[source] for source in sources}


def read_record(context: Context) -> Recorded | None:
    """What the plan says about this step; None without a plan. Raises `invalid_request`."""
    if context.recorded is None:
        return None
    try:
        return Recorded.model_validate(dict(context.recorded))
    except ValidationError as error:
        sentence = f"The plan does not say which layers, ranges and weights {context.step} chose."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error


def write_record(
    plan: Plan, chosen: Chosen, kept_float: Sequence[str], why_float: Finding | None
) -> dict[str, JsonValue]:
    """All that was decided, as JSON."""
    written: dict[str, JsonValue] = {
        "layers": list[JsonValue](sorted(plan.layers)),
        "kept_float": list[JsonValue](kept_float),
        "ranges": {source: list(ends) for source, ends in sorted(plan.ranges.items())},
        "weights": {"choice": chosen.choice, "why": chosen.why, "difference_from_exact": chosen.difference},
    }
    return written if why_float is None else written | {"why_float": why_float.text}


def _refuse(sentence: str) -> ModelpressError:
    return ModelpressError("invalid_request", sentence, pointer="/plan")
