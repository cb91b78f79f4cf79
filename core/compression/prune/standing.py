"""What is known between the rounds of a prune, and the networks that go with it; all of it can be written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from core.compression.context import Context
from core.compression.method import Report
from core.errors import ModelpressError
from core.network.checkpoint import pack_network, unpack_network
from core.network.network import Network
from core.verdict import Finding, Sensitivity

GOAL_MISSED = "pruning_goal_missed"
_KEPT, _BEGUN = "kept/", "begun/"


@final
class Round(BaseModel):
    """One round: what it was to leave, whether it stayed, what it cost, and what was decided in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    number: int
    keep: dict[str, float]
    gone: float
    amount: float
    stays: bool = True
    drop: float | None = None
    plan: dict[str, JsonValue]
    training: dict[str, JsonValue] | None = None


class _Recorded(BaseModel):
    rounds: tuple[Round, ...]


@final
class Standing(BaseModel):
    """How far the rounds are. `begun` is the round whose network is pruned and not yet trained."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    whole: float
    rounds: tuple[Round, ...] = ()
    begun: Round | None = None
    layers: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    sensitivities: dict[str, Sensitivity] = {}
    epochs: float = 0.0

    def add(self, report: Report) -> None:
        """What a part of a round did; of what it remarks, the last says how it ended."""
        self.layers = tuple(dict.fromkeys((*self.layers, *report.layers)))
        codes = {finding.code for finding in report.findings} | {GOAL_MISSED}
        self.findings = (*(each for each in self.findings if each.code not in codes), *report.findings)
        self.sensitivities = self.sensitivities or report.sensitivities


@final
@dataclass(frozen=True)
class Stand:
    """A standing with the network that stays so far, and that of the round which has begun."""

    standing: Standing
    kept: Network
    begun: Network | None = None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """As tensors and facts for a checkpoint; raises `unsupported_graph`."""
        facts: dict[str, JsonValue] = {"standing": self.standing.model_dump_json()}
        tensors: dict[str, Tensor] = {}
        for place, network in ((_KEPT, self.kept), (_BEGUN, self.begun)):
            if network is not None:
                facts[place], numbers = pack_network(network)
                tensors |= {place + name: value for name, value in numbers.items()}
        return tensors, facts

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> "Stand":
        """The opposite."""
        found: dict[str, Network] = {}
        for place in (_KEPT, _BEGUN):
            if place in facts:
                own = {name.removeprefix(place): each for name, each in tensors.items() if name.startswith(place)}
                found[place] = unpack_network(str(facts[place]), own)
        return cls(Standing.model_validate_json(str(facts["standing"])), found[_KEPT], found.get(_BEGUN))


def read_rounds(context: Context) -> tuple[Round, ...] | None:
    """The rounds of a plan; raises `invalid_request`."""
    if context.recorded is None:
        return None
    try:
        return _Recorded.model_validate(dict(context.recorded)).rounds
    except ValidationError as error:
        sentence = f"The plan does not say what the rounds of {context.step} were."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error
