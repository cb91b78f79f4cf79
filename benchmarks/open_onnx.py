"""Opens one ONNX file in onnxruntime and prints as JSON what that took: seconds, MiB at the peak, and its run time.

`python -m benchmarks.open_onnx FILE DENSE BATCH WIDTH`; a program of its own, so that nothing else takes memory. The
run time is the shortest of some, over the shortest of the file DENSE; both take turns.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

RUNS = 40


def peak_mib() -> float:
    """The peak since this program began, unlike `ru_maxrss`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def open_session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    path, dense, batch, width = sys.argv[1:]
    before, start, busy = peak_mib(), time.perf_counter(), time.process_time()
    session = open_session(path)
    found = {"load": time.perf_counter() - start, "processor": time.process_time() - busy, "peak": peak_mib() - before}
    sessions = (session, open_session(dense))
    feed = {"x": np.ones((int(batch), int(width)), np.float32)}
    shortest = [float("inf")] * 2
    for _ in range(RUNS):
        for index, each in enumerate(sessions):
            start = time.perf_counter()
            each.run(None, feed)
            shortest[index] = min(shortest[index], time.perf_counter() - start)
    print(json.dumps(found | {"run": shortest[0] / shortest[1]}))


if __name__ == "__main__":
    main()
