"""Writes a network to the files that users get: `.onnx`, `.pt2`, `.safetensors`."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor, fx
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram

from core.errors import ModelpressError
from core.network.encodings import Written
from core.network.encodings.operators import ONNX_TRANSLATIONS
from core.network.export_check import check_onnx, check_pt2
from core.network.export_compact import compact_onnx
from core.network.export_graph import EXAMPLE_BATCH, Flavour, example_inputs, expand
from core.network.export_stored import put_stored
from core.network.network import Network
from core.network.onnx_translations import keep_translations
from core.network.recurrent_calls import WholeRecurrent, restore_calls
from core.network.recurrent_translations import TRANSLATIONS
from core.network.silence import silence
from core.specs.file_sizes import MAX_WEIGHT_BYTES, refuse_result

OPSET = 20
# The name inside the archive comes from the file's stem, so bytes are the same only under one stem.
PT2_NAME = "model.pt2"
# What torch.export leaves on nodes that tells where and how the code lay on this machine.
_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")


def export_onnx(network: Network, path: Path, *, probes: tuple[Tensor, ...] | None = None) -> None:
    """Write ONNX with a free batch, reload it and compare on `probes` (or seeded noise).

    Raises `export_disagrees`, and `graph_too_large` where the weights do not fit into one file.
    """
    written = Written()
    program = _program(network, "onnx", written)
    _check_size(program, written)
    with silence(), _typed_errors(), keep_translations():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table={**ONNX_TRANSLATIONS, **TRANSLATIONS},
            input_names=[tensor.name for tensor in network.inputs],
            output_names=[tensor.name for tensor in network.outputs],
            verbose=False,
        )
    if made is None:
        raise ModelpressError("export_disagrees", "The exporter wrote no ONNX model.")
    model = put_stored(compact_onnx(made.model_proto, network), written)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    check_onnx(network, path, probes)


def export_pt2(network: Network, path: Path, *, probes: tuple[Tensor, ...] | None = None) -> None:
    """Write a torch.export archive of plain ATen operators, reload it and compare; raises `export_disagrees`."""
    program = _program(network, "pt2")
    strip_traces(program)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, silence():
        written = Path(folder) / PT2_NAME
        torch.export.save(program, written)
        shutil.move(written, path)
    check_pt2(network, path, probes)


def export_safetensors(network: Network, path: Path) -> None:
    """Write the parameters as their encodings store them.

    The header's `encodings` has, by parameter, the `name` of its encoding and, as `config`, what `restore` needs.
    """
    tensors: dict[str, Tensor] = {}
    encodings: dict[str, JsonValue] = {}
    for name, value in network.graph.state_dict().items():
        encoding = network.encodings.get(name)
        if encoding is None:
            tensors[name] = value.detach().contiguous().clone()
            continue
        encodings[name] = {"name": encoding.name, "config": encoding.config()}
        for suffix, stored in encoding.stored().items():
            tensors[f"{name}.{suffix}" if suffix else name] = stored.contiguous().clone()
    # One key: several would be written in an order that differs from run to run.
    save_file(tensors, path, metadata={"encodings": json.dumps(encodings, sort_keys=True)})


def _program(network: Network, flavour: Flavour, written: Written | None = None) -> ExportedProgram:
    shapes = tuple(
        {axis: Dim.DYNAMIC for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in network.inputs
    )
    with silence(), torch.no_grad(), _typed_sizes(), WholeRecurrent():
        program = torch.export.export(
            expand(network, flavour, written),
            example_inputs(network, EXAMPLE_BATCH),
            dynamic_shapes=shapes,
            strict=False,
        )
    if flavour == "pt2":
        restore_calls(program.graph)
    return program


def strip_traces(program: ExportedProgram) -> None:
    """Drop the example, and what nodes tell of where and how the code lay."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                for trace in _TRACES:
                    node.meta.pop(trace, None)


def _check_size(program: ExportedProgram, written: Written) -> None:
    tensors = [
        value for value in (*program.state_dict.values(), *program.constants.values()) if isinstance(value, Tensor)
    ]
    size = sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())
    size += sum(sum(encoding.bytes().model_dump().values()) for encoding in written.encodings)
    if size > MAX_WEIGHT_BYTES:
        raise refuse_result(size)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ModelpressError("unsupported_operator", f"An operator cannot be written as ONNX: {reason}") from error


@contextmanager
def _typed_sizes() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        reason = str(error).splitlines()[0]
        raise ModelpressError(
            "unsupported_graph", f"The network cannot be written with its free sizes: {reason}"
        ) from error
