"""The one place that opens an ONNX file in onnxruntime: fixed threads, no spinning, CPU only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from core.errors import ModelpressError
from core.network.batch_axes import Axes, Shape, baked_readings, batch_axes, batch_size

Feed = Mapping[str, NDArray[Any]]
Optimisation = Literal["none", "extended", "all"]

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
ERRORS_ONLY = 3
# The runtime's names of element types, as it tells them of inputs.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
# It has no common base class for what it raises.
RUNTIME_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def open_session(
    model: Path | bytes,
    threads: int,
    *,
    optimisation: Optimisation = "all",
    optimised_to: Path | None = None,
    profile_to: Path | None = None,
) -> ort.InferenceSession:
    """A session on the CPU; raises `runtime_failed`.

    A model in memory has the locations of weights in other files from the root (see `core.network.onnx_outside`).
    `optimised_to` is where the runtime writes its optimised graph, `profile_to` the prefix of its profile.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = LEVELS[optimisation]
    options.log_severity_level = ERRORS_ONLY
    # A spinning thread pool takes the cores from whatever else is measured in this process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if isinstance(model, bytes):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/")
    if optimisation == "none":
        # It copies every weight, which pays only where time counts; without it a mapped weight stays mapped.
        options.add_session_config_entry("session.disable_prepacking", "1")
    if optimised_to is not None:
        # A protobuf cannot hold more than 2 GiB.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimised_to.name}.data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "65536")
        options.optimized_model_filepath = str(optimised_to)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except RUNTIME_ERRORS as error:
        raise ModelpressError("runtime_failed", f"onnxruntime cannot open the file: {_first_line(error)}") from error


def run_session(session: ort.InferenceSession, feed: Feed) -> list[NDArray[Any]]:
    """The outputs for `feed`, in the file's order; raises `runtime_failed`."""
    try:
        return list(session.run(None, dict(feed)))
    except RUNTIME_ERRORS as error:
        raise ModelpressError("runtime_failed", f"onnxruntime cannot run the file: {_first_line(error)}") from error


def fixed_batch(session: ort.InferenceSession) -> int | None:
    """The batch size that the file is bound to, None when it is free.

    1 where samples cannot be stacked: some inputs fix the size that others leave free, or they fix different ones.
    """
    shapes = [entry.shape for entry in session.get_inputs()]
    if any(axis is not None for axis in batch_axes(shapes)):
        return None
    return batch_size(_numbers(shapes), input_axes(session)) or 1


def input_axes(session: ort.InferenceSession) -> Axes:
    """The axis of each input that counts samples; None where an input has none."""
    return _counting_axes([entry.shape for entry in session.get_inputs()])


def count_samples(session: ort.InferenceSession, feed: Feed) -> int:
    """How many samples a feed holds for this file."""
    return count_fed({entry.name: entry.shape for entry in session.get_inputs()}, feed)


def count_fed(inputs: Mapping[str, Shape], feed: Feed) -> int:
    """How many samples a feed holds for a file whose inputs have these shapes; free sizes have names."""
    axes = zip(inputs, _counting_axes(list(inputs.values())), strict=True)
    return next((feed[name].shape[axis] for name, axis in axes if axis is not None), 1)


def repeat_samples(session: ort.InferenceSession, feed: Feed, count: int) -> dict[str, NDArray[Any]]:
    """The feed with its samples repeated to `count`."""
    axes = zip(session.get_inputs(), input_axes(session), strict=True)
    return {
        entry.name: feed[entry.name]
        if axis is None
        else np.take(feed[entry.name], np.arange(count) % feed[entry.name].shape[axis], axis)
        for entry, axis in axes
    }


def _counting_axes(shapes: Sequence[Shape]) -> Axes:
    axes = batch_axes(shapes)
    if any(axis is not None for axis in axes):
        return axes
    reading = next(baked_readings(_numbers(shapes)), None)
    return axes if reading is None else reading.axes


def _numbers(shapes: Sequence[Shape]) -> list[list[int]]:
    """The sizes of the inputs; a free one, which is no batch where this is asked, as a number that none has."""
    return [[size if isinstance(size, int) else -1 for size in shape] for shape in shapes]


def zero_feed(
    session: ort.InferenceSession, batch: int, sizes: Mapping[str, int] = MappingProxyType({})
) -> dict[str, NDArray[Any]]:
    """Zeros for every input: free sizes that count samples are `batch`, others what `sizes` has by name, else 1."""
    feed = {}
    for entry, counted in zip(session.get_inputs(), input_axes(session), strict=True):
        shape = [
            size if isinstance(size, int) else batch if axis == counted else sizes.get(free_name(entry, axis), 1)
            for axis, size in enumerate(entry.shape)
        ]
        feed[entry.name] = np.zeros(shape, DTYPES[entry.type])
    return feed


def free_name(entry: ort.NodeArg, axis: int) -> str:
    """The name of a free size; one that the file does not name is called after its input."""
    return entry.shape[axis] or f"{entry.name}_{axis}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
