"""How many blocks have to go so that what is left keeps to a budget."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import final

from core.findings import make_finding
from core.network.describe import Description, describe
from core.network.network import Network
from core.network.surgery import Block, drop_blocks
from core.specs.budgets import WORDS, BlockBudget
from core.verdict import Finding

_COSTS: Mapping[str, Callable[[Description], int]] = {
    "macs": lambda found: found.macs,
    "parameters": lambda found: found.parameters,
}


@final
@dataclass(frozen=True)
class BlockGoal:
    """A budget of a network with these blocks."""

    network: Network
    blocks: tuple[Block, ...]
    budget: BlockBudget

    @property
    def count(self) -> int:
        """How many blocks go at most: at least one goes, and one stays."""
        whole = len(self.blocks)
        if self.budget.blocks is None:
            return whole - 1
        return min(max(whole - round(self.budget.blocks * whole), 1), whole - 1)

    def is_reached(self, gone: Collection[str]) -> bool:
        """Whether it is enough to leave these out."""
        if self.budget.blocks is not None:
            return len(gone) >= self.count
        return self._left(gone) <= self._most

    def missed(self, gone: Collection[str]) -> Finding:
        """What is said where these are all that can be left out."""
        if self.budget.blocks is not None:
            text = f"{self.count} of {len(self.blocks)} blocks were to be left out, and {len(gone)} are: the others "
            return make_finding("pruning_goal_missed", f"{text}are protected.")
        text = (
            f"At most {self._most:,.0f} {WORDS[self.budget.measure]} were to be left, and {self._left(gone):,} are "
            f"without {len(gone)} of {len(self.blocks)} blocks: the others are protected, or one has to stay."
        )
        return make_finding("pruning_goal_missed", text)

    @property
    def _most(self) -> float:
        return self.budget.most(self._cost(describe(self.network)))

    def _left(self, gone: Collection[str]) -> int:
        return self._cost(describe(drop_blocks(self.network, gone)))

    def _cost(self, found: Description) -> int:
        return _COSTS[self.budget.measure](found)
