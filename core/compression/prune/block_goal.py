"""How many blocks have to go so that what is left keeps to a budget."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from core.compression.context import Context
from core.compression.prune.timing import TIMES, Timing
from core.findings import make_finding
from core.measure.engine import name_runtime
from core.measure.network_latency import Stopwatch
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
    """A budget of a network with these blocks; `clock` measures it where it is a time."""

    network: Network
    blocks: tuple[Block, ...]
    budget: BlockBudget
    clock: "BlockClock | None" = None

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
        if self.budget.measure in TIMES:
            # Without a clock a plan says what goes.
            return self.clock is None or self.clock.time(gone).load <= 1
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

    def timing(self, gone: Collection[str]) -> Timing | None:
        """How long a run takes without these blocks, where that is what is asked for."""
        return None if self.clock is None else self.clock.time(gone)

    @property
    def _most(self) -> float:
        return self.budget.most(self._cost(describe(self.network)))

    def _left(self, gone: Collection[str]) -> int:
        return self._cost(describe(drop_blocks(self.network, gone)))

    def _cost(self, found: Description) -> int:
        return _COSTS[self.budget.measure](found)


@final
class BlockClock:
    """Measures whole networks that blocks are left out of, each once, against a budget of time."""

    def __init__(self, network: Network, budget: BlockBudget, stopwatch: Stopwatch) -> None:
        self._network, self._budget, self._stopwatch = network, budget, stopwatch
        self._timed: dict[frozenset[str], Timing] = {}

    def time(self, gone: Collection[str]) -> Timing:
        """How long a run takes without these blocks."""
        key = frozenset(gone)
        if key not in self._timed:
            measured = self._stopwatch.measure(drop_blocks(self._network, gone))
            self._timed[key] = Timing.of(self._budget, measured, name_runtime(self._stopwatch.runtime))
        return self._timed[key]


@contextmanager
def open_clock(network: Network, budget: BlockBudget, context: Context) -> Iterator[BlockClock | None]:
    """None where the budget is no time, or a plan says what was measured."""
    if budget.measure not in TIMES or context.recorded is not None:
        yield None
        return
    with Stopwatch(network, context.dataset, context.target) as stopwatch:
        yield BlockClock(network, budget, stopwatch)
