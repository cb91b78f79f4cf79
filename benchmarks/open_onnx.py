"""Opens one ONNX file in onnxruntime and prints as JSON what that took: seconds, MiB at the peak, milliseconds a run.

`python -m benchmarks.open_onnx FILE BATCH WIDTH`; a program of its own, so that nothing else takes memory.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

RUNS = 15


def peak_mib() -> float:
    """The peak since this program began, unlike `ru_maxrss`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    before, start, busy = peak_mib(), time.perf_counter(), time.process_time()
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    found = {"load": time.perf_counter() - start, "processor": time.process_time() - busy, "peak": peak_mib() - before}
    feed = {"x": np.ones((int(sys.argv[2]), int(sys.argv[3])), np.float32)}
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        times.append((time.perf_counter() - start) * 1000)
    print(json.dumps(found | {"run": sorted(times)[RUNS // 2]}))


if __name__ == "__main__":
    main()
