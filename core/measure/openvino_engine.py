"""The one place that opens an ONNX file in OpenVINO: fixed threads, fp32 where the file says so, CPU only."""

from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from core.errors import ModelpressError
from core.measure.engine import Call, Engine
from core.measure.runtime import Feed

DEVICE = "CPU"
# Characters that are told of what it says about a file.
MOST_WORDS = 500
# What it does by itself on some CPUs would make floats that the file does not have: bfloat16, and activations rounded
# to 8 bits in front of stored integers.
EXACT: dict[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "EXECUTION_MODE_HINT": "ACCURACY",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
# Threads are not pinned: a core that other work holds would be waited for, which onnxruntime does not do.
SCHEDULING: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}


@final
class OpenvinoEngine(Engine):
    """A file compiled with its sizes as free as they are."""

    def __init__(self, path: Path, threads: int) -> None:
        self._compiled = _compile(_read(path), threads)
        self._request = self._compiled.create_infer_request()

    def run(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs for `feed`, in the file's order; raises `runtime_failed`."""
        try:
            answer = self._request.infer({name: np.ascontiguousarray(rows) for name, rows in feed.items()})
        except RuntimeError as error:
            raise _failed("run", error) from error
        return [np.array(answer[output]) for output in self._compiled.outputs]


def bind_compiled(path: Path, feed: Feed, threads: int) -> Call:
    """A call on bound inputs of a file that is compiled for their sizes; raises `runtime_failed`."""
    request = request_for(compile_for(path, feed, threads), feed)

    def call() -> None:
        request.infer()

    return call


def request_for(compiled: ov.CompiledModel, feed: Feed) -> ov.InferRequest:
    """A request that has answered the feed once; raises `runtime_failed`."""
    request = compiled.create_infer_request()
    try:
        for name, rows in feed.items():
            request.set_tensor(name, ov.Tensor(np.ascontiguousarray(rows)))
        request.infer()
    except RuntimeError as error:
        raise _failed("run", error) from error
    return request


def compile_for(path: Path, feed: Feed, threads: int, *, profiled: bool = False) -> ov.CompiledModel:
    """A file compiled for the very sizes of a feed, as a service of one size would do; raises `runtime_failed`.

    Free sizes make OpenVINO up to 1.4 times as slow. Where the graph does not let them be fixed they stay free.
    """
    model = _read(path)
    try:
        model.reshape({name: list(rows.shape) for name, rows in feed.items()})
    except RuntimeError:
        model = _read(path)
    return _compile(model, threads, PERF_COUNT=profiled)


def _read(path: Path) -> ov.Model:
    try:
        return _core().read_model(path)
    except RuntimeError as error:
        raise _failed("open", error) from error


def _compile(model: ov.Model, threads: int, **more: bool) -> ov.CompiledModel:
    settings = {**EXACT, **SCHEDULING, "INFERENCE_NUM_THREADS": threads, **more}
    try:
        return _core().compile_model(model, DEVICE, settings)
    except RuntimeError as error:
        raise _failed("open", error) from error


@cache
def _core() -> ov.Core:
    return ov.Core()


def _failed(verb: str, error: RuntimeError) -> ModelpressError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The first lines say only where in its source it happened.
    told = " ".join(line for line in lines if not line.startswith(("Exception from", "Check '")))
    told = told or next(iter(lines), type(error).__name__)
    return ModelpressError("runtime_failed", f"OpenVINO cannot {verb} the file: {told[:MOST_WORDS]}")
