"""Reading a model file (gate, reader, lift, batch), and inspection, which adds parity and the description."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import onnx

from core.description import BATCH, ModelDescription, Parity, TensorDescription
from core.errors import ModelpressError
from core.network.archive import Archive
from core.network.batch import free_batch
from core.network.describe import describe
from core.network.flat import FlatProgram, run_shapes
from core.network.free_shapes import describe_outputs, free_sizes_of
from core.network.gate import Format, recognise
from core.network.gate_onnx import open_onnx
from core.network.hf_folder import laid_out
from core.network.lift import lift
from core.network.network import Network
from core.network.normalise import normalise
from core.network.onnx_only import REASONS, describe_onnx_only
from core.network.onnx_outside import bytes_outside
from core.network.parity import check_hf_parity, check_onnx_parity, check_pt2_parity
from core.network.read_hf import HfModule, build_hf, read_hf
from core.network.read_onnx import read_onnx
from core.network.read_pt2 import read_pt2
from core.network.strip import strip_onnx
from core.network.upload import Files, as_files

# Sample inputs of more bytes than this are told of.
MUCH_BYTES = 1_000_000


def read(source: Path | Files, seed: int = 0) -> Network:
    """The canonical network of a model; raises `ModelpressError` where a file cannot be read.

    Parity with the file is not checked here: `inspect` does, before a model is ready.
    """
    return _build(_open(as_files(source)).flat, seed)


def inspect(source: Path | Files, seed: int = 0) -> ModelDescription:
    """Read a model, compare the network with it, and describe it; raises `ModelpressError` with the node.

    An ONNX file that is no network here, but that onnxruntime runs, is described in mode `onnx_only`.
    """
    files = as_files(source)
    try:
        return _inspect_network(files, seed)
    except ModelpressError as error:
        if error.code not in REASONS or recognise(files) != "onnx":
            raise
        return describe_onnx_only(open_onnx(files), error)


def _inspect_network(files: Files, seed: int) -> ModelDescription:
    opened = _open(files)
    network = _build(opened.flat, seed)
    parity = _check_parity(network, opened, files, seed)
    described = describe(network)
    return ModelDescription(
        format=opened.format,
        opset=opened.flat.opset,
        producer=opened.flat.producer,
        dtype=network.dtype,
        inputs=network.inputs,
        outputs=network.outputs,
        batch=cast("Literal['dynamic', 'freed', 'fixed']", network.batch),
        batch_reason=network.batch_reason,
        parameters=described.parameters,
        macs=described.macs,
        planned_activation_bytes=described.planned_activation_bytes,
        planned_activation_node=described.planned_node,
        counted_at=described.counted_at,
        bytes_stripped=_stripped_bytes(opened, files),
        layers=described.layers,
        operators=described.operators,
        parity=parity,
        metadata=network.metadata,
        warnings=(*_warnings(network), *_hidden(opened, files)),
    )


@dataclass(frozen=True)
class _Opened:
    """A file behind the gate: its format, its flat program, and for ONNX the model itself."""

    format: Format
    flat: FlatProgram
    model: onnx.ModelProto | None
    # Of a Hugging Face model: the module itself, the bytes of its weights, and what was left out.
    module: HfModule | None = None
    weight_bytes: int = 0
    note: str | None = None


def _open(files: Files) -> _Opened:
    path = _only(files)
    format_ = recognise(files)
    if format_ == "hf":
        with laid_out(files) as folder:
            built = build_hf(folder)
            return _Opened("hf", read_hf(built, folder), None, built.module, folder.bytes, built.note)
    if format_ == "pt2":
        return _Opened("pt2", read_pt2(path), None)
    model = open_onnx(files)
    return _Opened("onnx", read_onnx(model), model)


def _build(flat: FlatProgram, seed: int) -> Network:
    """Lift a flat program, which is rewritten on the way, and free its batch."""
    if not flat.inputs or not flat.outputs:
        raise ModelpressError("unsupported_graph", "The network has no inputs or no outputs.")
    run_shapes(flat.graph, flat.example)
    normalise(flat.graph)
    batch = free_batch(lift(flat.graph), flat.example, [value.shape for value in flat.inputs], seed=seed)
    inputs = tuple(
        _with_batch(value, axis, batch.size if batch.state == "fixed" else BATCH)
        for value, axis in zip(flat.inputs, batch.inputs, strict=True)
    )
    named = replace(flat, inputs=inputs)
    return Network(
        graph=batch.graph,
        inputs=inputs,
        outputs=describe_outputs(named, batch.outputs),
        sizes=free_sizes_of(named),
        dtype=flat.dtype,
        batch=batch.state,
        batch_reason=batch.reason,
        metadata=flat.metadata,
    )


def _with_batch(value: TensorDescription, counted: int | None, batch: int | str | None) -> TensorDescription:
    """The description with its batch named, or the only number of samples that is taken; nothing else has that name."""
    shape = tuple(
        batch if axis == counted and batch is not None else f"{BATCH}_{axis}" if size == BATCH else size
        for axis, size in enumerate(value.shape)
    )
    return value.model_copy(update={"shape": shape})


def _only(files: Files) -> Path:
    """The one file of a format that has no more than one."""
    return next(iter(files.values()))


def _check_parity(network: Network, opened: _Opened, files: Files, seed: int) -> Parity:
    if opened.model is not None:
        return check_onnx_parity(network, opened.flat, opened.model, seed=seed)
    if opened.module is not None:
        return check_hf_parity(network, opened.flat, opened.module, seed=seed)
    # The program that was opened first has been rewritten.
    return check_pt2_parity(network, read_pt2(_only(files)), seed=seed)


def _stripped_bytes(opened: _Opened, files: Files) -> int:
    """Bytes of the file without traces, paths and sample inputs."""
    if opened.model is not None:
        return int(strip_onnx(opened.model).ByteSize()) + bytes_outside(opened.model)
    if opened.module is not None:
        return opened.weight_bytes
    path = _only(files)
    with Archive(path) as archive:
        return path.stat().st_size - archive.superfluous_bytes()


def _hidden(opened: _Opened, files: Files) -> Iterator[str]:
    """What a file carries besides the network, where it is much."""
    if opened.note:
        yield opened.note
    if opened.format != "pt2":
        return
    with Archive(_only(files)) as archive:
        samples = archive.sample_bytes()
    if samples > MUCH_BYTES:
        yield (
            f"The file carries the inputs that it was exported with, {samples / 1e6:,.1f} MB of data of yours that no "
            "network needs; artifacts are written without them. Export with `example.clone()`, or `modelpress export`."
        )


def _warnings(network: Network) -> tuple[str, ...]:
    warnings = []
    if network.batch == "fixed":
        warnings.append(f"The network takes one batch size only: {network.batch_reason}")
    if network.dtype != "float32":
        warnings.append(f"The weights are stored as {network.dtype}; the network computes in float32.")
    return tuple(warnings)
