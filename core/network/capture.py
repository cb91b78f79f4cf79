"""From a user's own `nn.Module` to a file that is read here: traced, written, read again and compared."""

import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils._pytree import tree_leaves

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.batch import TOLERANCE, largest_finite
from core.network.export import PT2_NAME, export_onnx, strip_traces
from core.network.inspect import read
from core.network.network import Network
from core.network.silence import silence

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
# What a model raises when it is traced; torch's own errors are RuntimeErrors.
_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError)
_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n(?P<code>.*)')
# A batch of 0 or 1 is special to torch, so that code for it would be traced alone.
_SMALLEST_BATCH = 2


@dataclass(frozen=True)
class Captured:
    """A written file: its inputs and outputs, and how far it is from the module on the example."""

    path: Path
    bytes: int
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    batch: str
    batch_reason: str | None
    max_abs_difference: float


def capture(model: nn.Module, example_inputs: Example, path: Path) -> Captured:
    """Write `model` as `.pt2` or `.onnx` (by the name of `path`) with a free batch.

    The example's first dimension is the batch; named inputs are given as a mapping. Raises `invalid_request`,
    `unsupported_graph` or `unsupported_operator` with the line of the user's code, or `parity_lost`.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise ModelpressError("invalid_request", f"{path.name} does not end in .pt2 or .onnx.")
    args, kwargs = _clone(example_inputs)
    with _evaluating(model), torch.no_grad(), silence():
        expected = _tensors(_call(model, args, kwargs))
        network = _write(_trace(model, args, kwargs), path)
    inputs = [*args, *kwargs.values()]
    return Captured(
        path=path,
        bytes=path.stat().st_size,
        inputs=network.inputs,
        outputs=network.outputs,
        batch=network.batch,
        batch_reason=network.batch_reason,
        max_abs_difference=_compare(network, inputs, expected),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The module in eval mode, and each part of it as it was afterwards."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


def _clone(example: Example) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Copies of the example that hold nothing else, with at least two samples; positional, and by name."""
    if isinstance(example, Mapping):
        return (), {name: _samples(name, tensor) for name, tensor in example.items()}
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    return tuple(_samples(f"number {index}", tensor) for index, tensor in enumerate(tensors)), {}


def _samples(name: str, tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor) or not tensor.dim() or not tensor.shape[0]:
        raise ModelpressError("invalid_request", f"Example input {name} is no tensor with a batch as first dimension.")
    copy = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return torch.cat([copy] * _SMALLEST_BATCH) if copy.shape[0] < _SMALLEST_BATCH else copy


def _trace(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> ExportedProgram:
    """With a free batch; else with the example's, which is freed when the file is read, where it can be."""
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]  # torch has not typed it
    for tensor in (*args, *kwargs.values()):
        shapes[tensor] = {0: Dim.DYNAMIC}
    try:
        free = shapes.dynamic_shapes(model, args, kwargs)  # type: ignore[no-untyped-call]  # as above
        return torch.export.export(model, args, kwargs, dynamic_shapes=free, strict=False)
    except _ERRORS:
        pass
    try:
        # Torch has marked the tensors above as free.
        copies = tuple(tensor.clone() for tensor in args)
        named = {name: tensor.clone() for name, tensor in kwargs.items()}
        return torch.export.export(model, copies, named, strict=False)
    except _ERRORS as error:
        raise _at_line("unsupported_graph", "cannot be traced", error) from error


def _call(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> object:
    try:
        return model(*args, **kwargs)
    except _ERRORS as error:
        raise _at_line("invalid_request", "fails on the example", error) from error


def _write(program: ExportedProgram, path: Path) -> Network:
    """Write and read again; an operator that is not read is told by the line of the code that calls it."""
    lines = {node.name: _user_line(str(node.meta.get("stack_trace", ""))) for node in program.graph.nodes}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, silence():
        written = Path(folder) / PT2_NAME
        strip_traces(program)
        torch.export.save(program, written)
        try:
            network = read(written)
        except ModelpressError as error:
            line = lines.get(error.node or "")
            if line is None:
                raise
            raise ModelpressError(
                error.code, f"{error.detail} It is {line}.", hint=error.hint, node=error.node
            ) from error
        if path.suffix == ".onnx":
            export_onnx(network, path)
        else:
            written.replace(path)
    return network


def _compare(network: Network, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference between the file's network and the module; raises `parity_lost`."""
    with torch.no_grad():
        found = _tensors(network.graph(*inputs))
    largest = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        apart = float((ours.double() - theirs.double()).abs().nan_to_num(0.0).max()) if theirs.numel() else 0.0
        largest = max(largest, apart)
        if ours.shape != theirs.shape or not apart <= TOLERANCE * max(largest_finite(theirs.double()), 1e-6):
            raise ModelpressError("parity_lost", f"The written file differs from the module by {apart:.3g}.")
    return largest


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _at_line(code: str, what: str, error: Exception) -> ModelpressError:
    """An error that names the last line of the user's own code on the way to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}, `{frames[-1].line}`" if frames else ""
    return ModelpressError(code, f"The module {what}{place}: {(str(error).splitlines() or [type(error).__name__])[0]}")


def _is_users(filename: str) -> bool:
    return not filename.startswith((_TORCH, "<")) and filename != __file__


def _user_line(stack: str) -> str | None:
    """The innermost line of a stack trace, as torch.export keeps it on a node, that is not torch's own."""
    found = [match for match in _FRAME.finditer(stack) if _is_users(match["file"])]
    return f"`{found[-1]['code'].strip()}` at {found[-1]['file']}:{found[-1]['line']}" if found else None
