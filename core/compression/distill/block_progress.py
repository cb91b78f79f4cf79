"""The checkpoint of `distill.blocks`: which blocks have learnt, and the weights that they came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from pydantic import JsonValue
from torch import Tensor

from core.compression.context import StepCheckpoint

_PLAN = "blocks"


@final
@dataclass
class BlockProgress:
    """By block in order, what was decided; and the weights, latent ones beneath encodings, of those that changed.

    A block that was interrupted begins anew, so the bytes at the end are the same.
    """

    plan: list[JsonValue] = field(default_factory=list)
    _weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def restored(cls, checkpoint: StepCheckpoint) -> "BlockProgress":
        """As it was last kept; empty at a fresh start."""
        found = checkpoint.restore()
        if found is None:
            return cls()
        plan = found[1].get(_PLAN)
        return cls(list(plan) if isinstance(plan, list) else [], dict(found[0]))

    def add(self, decided: Mapping[str, JsonValue], weights: Mapping[str, Tensor]) -> None:
        """One more block is done."""
        place = len(self.plan)
        self._weights |= {f"{place}/{name}": value for name, value in weights.items()}
        self.plan.append(dict(decided))

    def weights_of(self, place: int) -> dict[str, Tensor]:
        """Those that a block came to; none where it stayed as it was."""
        prefix = f"{place}/"
        return {name.removeprefix(prefix): value for name, value in self._weights.items() if name.startswith(prefix)}

    def keep(self, checkpoint: StepCheckpoint) -> None:
        """Write all of it down."""
        checkpoint.keep(self._weights, {_PLAN: self.plan})
