"""Every file of the hostile corpus through the whole worker stack: how each ended, canaries, times, memory.

    python -m benchmarks.hostile
    python -m benchmarks.hostile --only pt2 --only data-npz

Memory is what the runner's processes hold that the kernel could not take back, sampled every 50 ms.
"""

import argparse
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import structlog

from tests.hostile.corpus import corpus
from tests.hostile.stand import Ending, served, written_outside
from workers.process import usage

SAMPLE_SECONDS = 0.05


@dataclass
class Peak:
    """The most that a runner held, in bytes."""

    bytes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Every file of the hostile corpus through the worker stack.")
    parser.add_argument("--only", action="append", default=[], help="names that begin like this (may be given again)")
    asked = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.exit(0 if measure(tuple(asked.only)) else 1)


def measure(only: tuple[str, ...]) -> bool:
    """A line for each file and the sums; whether all were refused as they must be and nothing was reached."""
    before = psutil.Process().memory_info().rss
    reached, unlike, ends = 0, [], list[tuple[Ending, str, int]]()
    with served() as (made, canary, folder):
        for case in corpus(canary):
            if not case.name.startswith(only or ""):
                continue
            with sampled() as peak:
                ending = made.inspect(case)
            reached += canary.count()
            if ending.state != "rejected" or ending.code not in case.codes:
                unlike.append(case.name)
            ends.append((ending, case.name, peak.bytes))
            print(
                f"{case.name:44} {ending.state:9} {ending.code:21} {ending.seconds:6.2f} s {peak.bytes >> 20:6} MiB",
                flush=True,
            )
        outside = len(written_outside(folder))
    slowest, hungriest = max(ends, key=lambda end: end[0].seconds), max(ends, key=lambda end: end[2])
    print(f"\n{len(ends)} files, {reached} canaries, {outside} files written outside")
    print(f"codes: {dict(Counter(ending.code or ending.state for ending, _, _ in ends).most_common())}")
    print(f"slowest rejection {slowest[0].seconds:.2f} s ({slowest[1]}); median {median(ends):.2f} s")
    print(f"most memory of a runner {hungriest[2] >> 20} MiB ({hungriest[1]})")
    print(f"worker grew by {(psutil.Process().memory_info().rss - before) >> 20} MiB, the corpus in its memory")
    print(f"not as they must be: {unlike or 'none'}")
    return not unlike and not reached


def median(ends: list[tuple[Ending, str, int]]) -> float:
    return sorted(ending.seconds for ending, _, _ in ends)[len(ends) // 2]


@contextmanager
def sampled() -> Iterator[Peak]:
    """What the runners below this process hold at most, while it lasts."""
    peak, done = Peak(), threading.Event()

    def look() -> None:
        while not done.wait(SAMPLE_SECONDS):
            for child in psutil.Process().children():
                try:
                    if "runner" in child.cmdline():
                        peak.bytes = max(peak.bytes, usage(child.pid).memory_bytes)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
