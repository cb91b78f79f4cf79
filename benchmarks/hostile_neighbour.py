"""How much a hostile neighbour slows honest work on the same machine (bar S6): a bomb of each kind, calm in between.

    python -m benchmarks.hostile_neighbour --rounds 3

The work is one thread of float32 products in a process of its own; a ratio is its time beside the bomb over its time in
the calm round before. The bomb runs in the sandbox under the limits of `tests/hostile/conftest.py`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from core.database.schema import upgrade
from launch.postgres import Postgres
from tests.hostile.canary import Canary, set_out
from tests.hostile.cases import case
from tests.hostile.conftest import GULLIBLE
from tests.hostile.stand import Ending, Stand, stand
from tests.hostile.test_sandbox_holds import EATS_DISK, EATS_MEMORY, FORKS, SPINS

BOMBS = {"memory": EATS_MEMORY, "disk": EATS_DISK, "forks": FORKS, "spins": SPINS}
# About two seconds, which no bomb ends before.
WORK = """
import time, numpy
a = numpy.random.default_rng(0).random((700, 700), numpy.float32)
a @ a
print(flush=True)
input()
began = time.perf_counter()
for _ in range({products}):
    a @ a
print(time.perf_counter() - began, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Honest work beside bombs.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--products", type=int, default=60)
    asked = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with tempfile.TemporaryDirectory() as name:
        server = Postgres(Path(name) / "postgres", durable=False)
        try:
            measure(server.start(), Path(name), asked.rounds, asked.products)
        finally:
            server.stop()


def measure(database: str, folder: Path, rounds: int, products: int) -> None:
    values = {
        "DATABASE_URL": database,
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "STORAGE_URL": (folder / "blobs").as_uri(),
        "MODELPRESS_SCRATCH_DIR": str(folder / "scratch"),
    }
    os.environ.update(values)
    upgrade(database)
    print(f"{'bomb':8} {'code':20} {'lived s':>8} {'ratios':24} median")
    with set_out(folder) as canary, stand({**values, **GULLIBLE}) as made:
        for name, bomb in BOMBS.items():
            ratios = []
            for _ in range(rounds):
                calm = work(products, lambda: None)
                ends: list[Ending] = []
                explode = threading.Thread(target=lambda: ends.append(fool(made, canary, bomb)))  # noqa: B023 - it ends in its own round
                ratios.append(work(products, explode.start) / calm)
                explode.join()
                ending = ends[0]
            shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
            median = statistics.median(ratios)
            print(f"{name:8} {ending.code:20} {ending.seconds:8.1f} {shown:24} {median:.2f}", flush=True)


def fool(made: Stand, canary: Canary, bomb: str) -> Ending:
    return made.inspect(case("fooled", canary.pickled(bomb)))


def work(products: int, before: Callable[[], None]) -> float:
    """Seconds that the work takes after `before` was called and the bomb had a moment to start."""
    program = [sys.executable, "-c", WORK.format(products=products)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(program, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        before()
        time.sleep(0.5)
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())


if __name__ == "__main__":
    main()
