"""The chaos trials many times over: survived of run, and the worst time of each.

    python -m benchmarks.chaos --runs 20 --clock 0.1
    python -m benchmarks.chaos --runs 1 --clock 1

Every run has a fresh database, two workers and a dispatcher on embedded servers; the invariants are checked after it.
"""

import argparse
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from core.database.schema import upgrade
from launch.postgres import Postgres
from launch.valkey import Valkey
from tests.chaos.trials import OTHER_TRIALS, TRIALS, run_trial
from tests.chaos.world import World, told, variables

Trial = Callable[[World], float]


def main() -> None:
    parser = argparse.ArgumentParser(description="The chaos trials many times over.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--clock", type=float, default=0.1, help="1 is real time")
    parser.add_argument("--trial", action="append", help="only this one (may be given again)")
    parser.add_argument("--all", action="store_true", help="the trials beside the five, too")
    asked = parser.parse_args()
    trials = [*TRIALS, *(OTHER_TRIALS if asked.all else ())]
    chosen = [trial for trial in trials if not asked.trial or trial.__name__ in asked.trial]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres, valkey = Postgres(folder / "postgres", durable=False), Valkey(folder / "valkey", durable=False)
        try:
            survived = measure(chosen, asked.runs, asked.clock, folder=folder, urls=(postgres.start(), valkey.start()))
        finally:
            valkey.stop()
            postgres.stop()
    sys.exit(0 if survived else 1)


def measure(trials: list[Trial], runs: int, clock: float, *, folder: Path, urls: tuple[str, str]) -> bool:
    """Run all and print a line for each trial; whether all survived."""
    print(f"clock {clock:g}, {runs} runs of each\n{'trial':18} {'survived':>9} {'worst s':>8} {'median s':>9}")
    whole = True
    for trial in trials:
        times = [taken for number in range(runs) if (taken := attempt(trial, number, clock, folder, urls)) is not None]
        whole &= len(times) == runs
        worst, median = (max(times), sorted(times)[len(times) // 2]) if times else (float("nan"), float("nan"))
        print(f"{trial.__name__:18} {len(times):>4}/{runs:<4} {worst:>8.2f} {median:>9.2f}", flush=True)
    return whole


def attempt(trial: Trial, number: int, clock: float, folder: Path, urls: tuple[str, str]) -> float | None:
    """One run of one trial in a world of its own; None, and the reason on standard error, when it did not survive."""
    home = folder / f"{trial.__name__}-{number}-{uuid.uuid4().hex[:6]}"
    home.mkdir()
    database = f"chaos_{uuid.uuid4().hex[:12]}"
    server, broker = urls
    url = make_url(server).set(database=database).render_as_string(hide_password=False)
    administer(server, "CREATE DATABASE {}", database)
    environment = variables(home, url, broker, clock)
    try:
        upgrade(url)
        with told(environment), World(home, clock, environment) as world:
            return run_trial(trial, world)
    except AssertionError:
        traceback.print_exc()
        return None
    finally:
        administer(server, "DROP DATABASE {} WITH (FORCE)", database)


def administer(server: str, statement: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


if __name__ == "__main__":
    main()
