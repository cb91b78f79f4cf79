"""What `quantize.mixed` has decided, as it is written into `plan.json` and followed when a plan is replayed."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core.compression.context import Context
from core.errors import ModelpressError
from core.findings import make_finding
from core.specs.mixed import FLOAT_BITS, Width
from core.verdict import Finding


class Told(BaseModel):
    """One of the finding's sentences."""

    model_config = ConfigDict(frozen=True)

    code: str
    text: str


class CurvePoint(BaseModel):
    """The bytes of all weights and the rise of the loss that is predicted for them."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    predicted: float


class Contestant(BaseModel):
    """A choice of bits, what was predicted of it, and how far the answers to the choosing split move with it.

    `moved` is a divergence from the network's own answers; None where they are no numbers, as in `predicted`.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    predicted: float | None
    moved: float | None
    sqnr_db: float | None


class Decision(BaseModel):
    """Bits by layer, `FLOAT_BITS` for those that stay as they are, and what they were chosen by.

    `costs` are by layer and bits, None for what is no number; `chosen` names the contestant that won; `times` are in
    milliseconds by layer, as floats and on integers.
    """

    model_config = ConfigDict(frozen=True)

    bits: dict[str, Width | Literal[32]]
    costs: dict[str, dict[int, float | None]] = {}
    curve: tuple[CurvePoint, ...] = ()
    contest: tuple[Contestant, ...] = ()
    chosen: str = ""
    times: dict[str, tuple[float, float]] = {}
    told: tuple[Told, ...] = ()

    @property
    def rounded(self) -> dict[str, int]:
        """The layers that are rounded."""
        return {path: bits for path, bits in self.bits.items() if bits != FLOAT_BITS}

    @property
    def floats(self) -> tuple[str, ...]:
        """The layers that stay as they are."""
        return tuple(path for path, bits in self.bits.items() if bits == FLOAT_BITS)

    def findings(self) -> tuple[Finding, ...]:
        """What is to be said in the verdict."""
        return tuple(make_finding(each.code, each.text) for each in self.told)


def read_decision(context: Context, paths: tuple[str, ...]) -> Decision | None:
    """What the plan says about this step on layers `paths`; None without a plan. Raises `invalid_request`."""
    if context.recorded is None:
        return None
    try:
        decision = Decision.model_validate(context.recorded.get("decision"))
    except ValidationError as error:
        sentence = f"The plan does not say which bits {context.step} chose for each layer."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error
    if set(decision.bits) != set(paths):
        odd = ", ".join(sorted(set(decision.bits) ^ set(paths)))
        raise ModelpressError(
            "invalid_request", f"The plan's layers are not those of this model: {odd}.", pointer="/plan"
        )
    return decision
