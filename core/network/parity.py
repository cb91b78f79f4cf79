"""Parity: the canonical network against the uploaded file, on random and on edge inputs."""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import fx

from core.description import BATCH, Parity
from core.errors import ModelpressError
from core.measure.runtime import DTYPES, RUNTIME_ERRORS, open_session
from core.network.batch import largest_finite
from core.network.flat import FlatProgram
from core.network.network import Network
from core.network.read_hf import HfModule
from core.network.read_onnx import trace_values
from core.network.sampling import draw_inputs

# Largest difference allowed, as a fraction of the largest output; files in half precision round by themselves.
TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
# Deviations of the random inputs: usual values several times, zeros, and values far outside of what is trained on.
_SCALES = (1.0, 1.0, 1.0, 1.0, 0.0, 30.0)
# Whatever the size of a single output, it is rounded as the largest that this output takes: a sigmoid that is almost 0
# comes from numbers around 1. Multiples of the spacing at 1 (Higham, Accuracy and Stability, 2nd edition, section 2.1).
_ROUNDING = 3 * torch.finfo(torch.float32).eps
Tensors = Sequence[torch.Tensor]
Reference = Callable[[Tensors], list[torch.Tensor]]


def check_onnx_parity(network: Network, flat: FlatProgram, model: onnx.ModelProto, *, seed: int) -> Parity:
    """Compare with the uploaded model in onnxruntime; raises `parity_lost`, `non_finite` or `unsupported_graph`."""
    session = _open(model)

    def reference(inputs: Tensors) -> list[torch.Tensor]:
        try:
            return [torch.from_numpy(np.asarray(output)) for output in session.run(None, _feed(session, inputs))]
        except RUNTIME_ERRORS as error:
            raise ModelpressError("unsupported_graph", f"onnxruntime cannot run the file: {_line(error)}") from error

    def locate(inputs: Tensors) -> str | None:
        return _first_divergence(model, inputs)

    compared = _compare(network, flat, reference, seed=seed)
    return _judge(network, compared, locate, name=f"onnxruntime {ort.__version__}")


def check_pt2_parity(network: Network, flat: FlatProgram, *, seed: int) -> Parity:
    """Compare with the program as it was read, neither rewritten nor lifted; `flat` must be fresh."""

    def reference(inputs: Tensors) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(flat.graph(*(tensor.clone() for tensor in inputs)))

    return _judge(network, _compare(network, flat, reference, seed=seed), name=f"torch {torch.__version__}")


def check_hf_parity(network: Network, flat: FlatProgram, module: HfModule, *, seed: int) -> Parity:
    """Compare with the model as transformers built it."""

    def reference(inputs: Tensors) -> list[torch.Tensor]:
        with torch.no_grad():
            return [module(*inputs)]

    name = f"transformers {importlib.metadata.version('transformers')}"
    return _judge(network, _compare(network, flat, reference, seed=seed), name=name)


@dataclass(frozen=True)
class _Comparison:
    """One output at one draw: how far apart both are, and the largest value of the file's."""

    inputs: Tensors
    output: int
    apart: float
    size: float


def _compare(network: Network, flat: FlatProgram, reference: Reference, *, seed: int) -> list[_Comparison]:
    """Every output at every draw; raises `non_finite` where ordinary inputs give no numbers."""
    compared = []
    for index, scale in enumerate(_SCALES):
        inputs = draw_inputs(network.graph, flat.example, seed=seed + index, scale=scale)
        expected, outputs = reference(inputs), run_network(network.graph, inputs)
        if scale == _SCALES[0] and not all(bool(torch.isfinite(value.float()).all()) for value in expected):
            raise ModelpressError("non_finite", "On ordinary random inputs the file gives NaN or infinity.")
        for output, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
            compared.append(_Comparison(inputs, output, *_distance(ours, theirs)))
    return compared


def _judge(
    network: Network,
    compared: Sequence[_Comparison],
    locate: Callable[[Tensors], str | None] = lambda _: None,
    *,
    name: str,
) -> Parity:
    """What was compared as a result; raises `parity_lost` with the node where more than rounding is between both.

    A difference counts against the largest output of its own draw, or against the rounding of all that it takes.
    """
    tolerance = HALF_TOLERANCE if network.dtype in ("float16", "bfloat16") else TOLERANCE
    for each in compared:
        range_ = max(other.size for other in compared if other.output == each.output)
        if not each.apart <= max(tolerance * max(each.size, 1e-6), _ROUNDING * range_):
            raise ModelpressError(
                "parity_lost",
                f"Our network differs from the file by {each.apart:.3g} where outputs reach {each.size:.3g}.",
                node=locate(each.inputs),
            )
    counted = next((index for index, value in enumerate(network.inputs) if BATCH in value.shape), 0)
    axis = network.inputs[counted].batch_axis
    counts = (each.inputs[counted].shape[axis : axis + 1] for each in compared if not each.output)
    return Parity(
        max_abs_difference=max(each.apart for each in compared),
        max_abs_output=max(each.size for each in compared),
        samples=sum(count[0] if count else 1 for count in counts),
        reference=name,
    )


def run_network(graph: fx.GraphModule, inputs: Tensors) -> list[torch.Tensor]:
    """The outputs of a lifted graph as a list, without gradients."""
    with torch.no_grad():
        outputs = graph(*inputs)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """Largest difference and largest finite value; infinities and NaN count as equal in the same places."""
    if ours.shape != theirs.shape:
        return float("inf"), 0.0
    a, b = ours.double(), theirs.double()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0.0, (a - b).abs())
    return float(apart.nan_to_num(float("inf")).max()) if apart.numel() else 0.0, largest_finite(b)


def _open(model: onnx.ModelProto) -> ort.InferenceSession:
    try:
        # As it is written: optimised, weights stored as integers are multiplied in integers.
        return open_session(model.SerializeToString(), 1, optimisation="none")
    except ModelpressError as error:
        raise ModelpressError("unsupported_graph", error.detail) from error


def _feed(session: ort.InferenceSession, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
    return {
        entry.name: tensor.numpy().astype(DTYPES[entry.type])
        for entry, tensor in zip(session.get_inputs(), inputs, strict=True)
    }


def _first_divergence(model: onnx.ModelProto, inputs: Tensors) -> str | None:
    """The first node whose value differs when our reader runs it eagerly; None when the fault is after reading."""
    ours = trace_values(model, inputs)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ours if name not in known)
    session = _open(exposed)
    names = [entry.name for entry in session.get_outputs()]
    theirs = dict(zip(names, session.run(None, _feed(session, inputs)), strict=True))
    for node in model.graph.node:
        for name in node.output:
            if name in ours:
                apart, size = _distance(ours[name], torch.from_numpy(np.asarray(theirs[name])))
                if not apart <= TOLERANCE * max(size, 1e-6):
                    return str(node.name or name)
    return None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
