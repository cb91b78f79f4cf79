from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.trials import OTHER_TRIALS, TRIALS, cancel_job, run_trial
from tests.chaos.world import World, told, variables

CLOCK = 0.1
# The time to wait for its turn included.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.fixture
def world(database: str, broker: str, tmp_path: Path) -> Iterator[World]:
    environment = variables(tmp_path, database, broker, CLOCK)
    with told(environment), World(tmp_path, CLOCK, environment) as made:
        yield made


@pytest.mark.parametrize(("trial", "limit"), TRIALS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_trial(world: World, trial: Callable[[World], float], limit: float | None) -> None:
    taken = run_trial(trial, world)
    if limit is not None:
        # A cancel is not slowed by the clock, so a tenth of the clock does not make it faster.
        assert taken <= (limit if trial is cancel_job else limit * CLOCK)


@pytest.mark.parametrize(("trial", "limit"), OTHER_TRIALS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_other_trial(world: World, trial: Callable[[World], float], limit: float) -> None:
    assert run_trial(trial, world) <= limit
