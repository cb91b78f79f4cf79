"""A program: load one ONNX file in a fresh process, run it, and print what memory that took, as one line of JSON.

Usage: `python -I -m core.measure.memory_probe MODEL RUNTIME THREADS INPUTS`, where INPUTS is a JSON object with element
type and shape of each input by name.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from core.measure.engine import ONNXRUNTIME, OPENVINO, open_engine

STATUS = Path("/proc/self/status")
RUNS = 3
KIB = 1024


def main() -> None:
    """Peak resident bytes of this process, those of the runtime alone, and the time to open the file."""
    path, runtime, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    inputs: dict[str, tuple[str, list[int]]] = json.loads(sys.argv[4])
    if runtime == OPENVINO:
        import openvino  # noqa: F401, PLC0415  # what it takes by itself counts to the runtime
    runtime_bytes = _status("VmHWM")
    started = time.perf_counter()
    engine = open_engine(OPENVINO if runtime == OPENVINO else ONNXRUNTIME, path, threads)
    load_ms = (time.perf_counter() - started) * 1000
    feed = {name: np.zeros(shape, dtype) for name, (dtype, shape) in inputs.items()}
    for _ in range(RUNS):
        engine.run(feed)
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
