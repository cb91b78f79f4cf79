"""A program: load one ONNX file in a fresh process, run it, and print what memory that took, as one line of JSON.

Usage: `python -I -m core.measure.memory_probe MODEL BATCH THREADS SIZES`, where SIZES is a JSON
object with a number for each free size besides the batch.
"""

import json
import sys
import time
from pathlib import Path

from core.measure.runtime import open_session, run_session, zero_feed

STATUS = Path("/proc/self/status")
RUNS = 3
KIB = 1024


def main() -> None:
    """Peak resident bytes of this process, those of the runtime alone, and the time to make a session."""
    path, batch, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sizes: dict[str, int] = json.loads(sys.argv[4])
    runtime_bytes = _status("VmHWM")
    started = time.perf_counter()
    session = open_session(path, threads)
    load_ms = (time.perf_counter() - started) * 1000
    feed = zero_feed(session, batch, sizes)
    for _ in range(RUNS):
        run_session(session, feed)
    answer = {"peak_rss_bytes": _status("VmHWM"), "runtime_bytes": runtime_bytes, "load_ms": load_ms}
    sys.stdout.write(json.dumps(answer) + "\n")


def _status(field: str) -> int:
    """A figure of /proc/self/status in bytes. VmHWM is the peak since this program began, unlike `ru_maxrss`."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * KIB
    raise SystemExit(f"{STATUS} has no {field}")


if __name__ == "__main__":
    main()
