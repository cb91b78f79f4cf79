"""How much a hostile neighbour slows honest work on the same machine (bar S6): bombs of each kind, calm in between.

    python -m benchmarks.hostile_neighbour --rounds 3

The work is one thread of float32 products in a process of its own. While it lasts the neighbour uploads one bomb after
the other; a ratio is its time then over the mean of its times in the calm before and after. The bombs run in the
sandbox under the limits of `tests/hostile/conftest.py`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from tests.hostile.canary import Canary
from tests.hostile.conftest import GULLIBLE
from tests.hostile.stand import Ending, Stand, served
from tests.hostile.test_sandbox_holds import EATS_DISK, EATS_MEMORY, FORKS, SPINS, fool

BOMBS = {"memory": EATS_MEMORY, "disk": EATS_DISK, "forks": FORKS, "spins": SPINS}
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
    parser.add_argument("--products", type=int, default=600)
    asked = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    print(f"{'bomb':8} {'ratios':28} {'median':>6}  ends of the bombs, calm s")
    with served(GULLIBLE) as (made, canary, _):
        for name, bomb in BOMBS.items():
            calm, ratios, ends = [work(asked.products)], [], list[Ending]()
            for _ in range(asked.rounds):
                with bombed(made, canary, bomb, ends):
                    took = work(asked.products)
                calm.append(work(asked.products))
                ratios.append(took / statistics.mean(calm[-2:]))
            shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
            codes = ", ".join(f"{code} {count}" for code, count in Counter(end.code for end in ends).items())
            print(
                f"{name:8} {shown:28} {statistics.median(ratios):6.2f}  {codes}, {statistics.mean(calm):.1f}",
                flush=True,
            )


@contextmanager
def bombed(made: Stand, canary: Canary, bomb: str, ends: list[Ending]) -> Iterator[None]:
    """While it lasts, one bomb is uploaded after the other."""
    over = threading.Event()

    def explode() -> None:
        while not over.is_set():
            ends.append(fool(made, canary, bomb))

    neighbour = threading.Thread(target=explode)
    neighbour.start()
    try:
        yield
    finally:
        over.set()
        neighbour.join()


def work(products: int) -> float:
    """Seconds that the work takes."""
    program = [sys.executable, "-c", WORK.format(products=products)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(program, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())


if __name__ == "__main__":
    main()
