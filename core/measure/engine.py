"""A file that is opened in a runtime and ready to answer: what quality, time and memory are measured through."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from core.errors import ModelpressError
from core.measure.runtime import Feed, open_session, run_session

RuntimeName = Literal["onnxruntime-cpu", "openvino-cpu"]
ONNXRUNTIME: RuntimeName = "onnxruntime-cpu"
OPENVINO: RuntimeName = "openvino-cpu"
# The package of each runtime, which is also what it is called in words.
PACKAGES: dict[RuntimeName, str] = {ONNXRUNTIME: "onnxruntime", OPENVINO: "openvino"}

Call = Callable[[], None]


class Engine(ABC):
    """One file in one runtime, with a fixed number of threads that do not spin."""

    @abstractmethod
    def run(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs for `feed`, in the file's order; raises `runtime_failed`."""


@final
class OnnxruntimeEngine(Engine):
    """A session of onnxruntime."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_session(path, threads)

    def run(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs for `feed`, in the file's order; raises `runtime_failed`."""
        return run_session(self._session, feed)


def open_engine(runtime: RuntimeName, path: Path, threads: int) -> Engine:
    """Open a file in a runtime; raises `runtime_failed`, `runtime_missing`."""
    if runtime == ONNXRUNTIME:
        return OnnxruntimeEngine(path, threads)
    _need(runtime)
    # The import takes time and memory that a measurement in onnxruntime must not have.
    from core.measure.openvino_engine import OpenvinoEngine  # noqa: PLC0415

    return OpenvinoEngine(path, threads)


def bind_file(runtime: RuntimeName, path: Path, feed: Feed, threads: int) -> Call:
    """A call of a file on inputs that are bound once, so that Python's share is small.

    Raises `runtime_failed`, `runtime_missing`.
    """
    if runtime == ONNXRUNTIME:
        return _bind_session(open_session(path, threads), feed)
    _need(runtime)
    from core.measure.openvino_engine import bind_compiled  # noqa: PLC0415

    return bind_compiled(path, feed, threads)


def _bind_session(session: ort.InferenceSession, feed: Feed) -> Call:
    binding = session.io_binding()
    for name, rows in feed.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(rows))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _need(runtime: RuntimeName) -> None:
    if not has_runtime(runtime):
        sentence = "The job is for OpenVINO, which is not installed on the worker that took it."
        raise ModelpressError("runtime_missing", sentence, pointer="/target/runtime")


def has_runtime(runtime: RuntimeName) -> bool:
    """Whether a runtime is installed here; nothing is imported for it."""
    return find_spec(PACKAGES[runtime]) is not None


def name_runtime(runtime: RuntimeName) -> str:
    """The name and version of an installed runtime, such as `onnxruntime 1.32.0`."""
    return f"{PACKAGES[runtime]} {version(PACKAGES[runtime])}"


def candidate_runtimes(asked: RuntimeName | Literal["auto"]) -> tuple[RuntimeName, ...]:
    """The runtimes that the result may be measured in; raises `runtime_missing`."""
    if asked == "auto":
        return tuple(name for name in PACKAGES if has_runtime(name))
    _need(asked)
    return (asked,)


def keep_able(
    runtimes: tuple[RuntimeName, ...], path: Path, feeds: Iterable[Feed], threads: int
) -> tuple[RuntimeName, ...]:
    """Those that run a file on all of the feeds; onnxruntime stays, since every file is made for it."""
    tried = list(feeds)
    return tuple(
        name for name in runtimes if name == ONNXRUNTIME or all(_runs(name, path, feed, threads) for feed in tried)
    )


def _runs(runtime: RuntimeName, path: Path, feed: Feed, threads: int) -> bool:
    try:
        bind_file(runtime, path, feed, threads)()
    except ModelpressError as error:
        if error.code != "runtime_failed":
            raise
        return False
    return True


def baseline_runtimes(asked: RuntimeName | Literal["auto"]) -> tuple[RuntimeName, ...]:
    """The runtimes that the original is timed in: those of the result, and onnxruntime, which is always at hand."""
    return tuple(dict.fromkeys((ONNXRUNTIME, *candidate_runtimes(asked))))
