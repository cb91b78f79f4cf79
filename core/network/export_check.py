"""Reloads a written file and compares what it computes with the network it was written from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.encodings import ActivationGrid, DynamicGrid
from core.network.export_graph import example_inputs
from core.network.network import Network

# Relative root-mean-square differences. Without rounded activations only the order of sums differs; with them a sum
# next to a rounding boundary may fall to either side, which moves a value by one step of its grid.
DENSE_TOLERANCE = 1e-4
ROUNDED_TOLERANCE = 3e-2
# In deep networks such differences grow. What the network differs from itself where its sums are moved by what their
# order may change (n·2⁻²⁴ for n summands, Higham 2002, section 4.2) tells how much; a file may differ by some times
# that. A weight that is wrong by 1 % differs by thousands of times that, unless rounding hides it: hence ONNX files
# with rounded activations are compared without the rounding, too.
SUM_ERROR = 2e-6
MARGIN, MOST_DENSE, MOST_ROUNDED = 3.0, 1e-2, 0.15
PROBE_SEED = 0


def check_onnx(network: Network, path: Path, probes: tuple[Tensor, ...] | None) -> None:
    """Compare the file in onnxruntime, graph as written, with the network; raises `export_disagrees`.

    Where activations are rounded, the file and the network are also compared with the rounding left out of both.
    """
    given = probes or noise_inputs(network)
    _compare(network, given, _run_onnx(network, path, given), path.name)
    grids = _grids(network)
    # What is rounded by its own range stands in no pair that could be left out.
    if grids and not _has_dynamic(network):
        found = _run_onnx(network, _without_rounding(path), given)
        with _hooked(grids, lambda _module, inputs, _output: inputs[0]):
            _compare(network, given, found, path.name, rounded=False)


def _run_onnx(network: Network, model: Path | bytes, given: tuple[Tensor, ...]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in network.inputs]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    return [np.asarray(value) for value in found]


def _without_rounding(path: Path) -> bytes:
    """The model with each pair of QuantizeLinear and DequantizeLinear replaced by what goes into it."""
    model = onnx.load(path)
    rounded = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    clips = [node for node in model.graph.node if node.op_type == "Clip" and node.input[0] in rounded]
    rounded |= {node.output[0]: rounded[node.input[0]] for node in clips}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded:
            source = rounded[node.input[0]]
            del node.input[:], node.attribute[:]
            node.op_type = "Identity"
            node.input.append(source)
    content: bytes = model.SerializeToString()
    return content


def check_pt2(network: Network, path: Path, probes: tuple[Tensor, ...] | None) -> None:
    """Compare the reloaded archive with the network; raises `export_disagrees`."""
    given = probes or noise_inputs(network)
    with torch.no_grad():
        found = torch.export.load(path).module()(*given)
    values = [found] if isinstance(found, Tensor) else list(found)
    _compare(network, given, [value.numpy() for value in values], path.name)


def noise_inputs(network: Network, seed: int = PROBE_SEED) -> tuple[Tensor, ...]:
    """Seeded normal noise for float inputs, zeros and ones for integers (always in range), ones for masks, batch 2."""
    generator = torch.Generator().manual_seed(seed)
    noise = []
    for described, tensor in zip(network.inputs, example_inputs(network), strict=True):
        # What attends to nothing is undefined, and runtimes differ there.
        if tensor.dtype is torch.bool or "mask" in described.name:
            noise.append(torch.ones_like(tensor))
        elif tensor.is_floating_point():
            noise.append(torch.randn(tensor.shape, generator=generator))
        else:
            noise.append(torch.randint(0, 2, tensor.shape, generator=generator, dtype=tensor.dtype))
    return tuple(noise)


def relative_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference over that of `wanted`."""
    scale = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    difference = float(np.sqrt(np.mean(np.square(found.astype(np.float64) - wanted))))
    return difference / max(scale, 1e-12)


def _compare(
    network: Network, given: tuple[Tensor, ...], found: Sequence[np.ndarray], name: str, *, rounded: bool | None = None
) -> None:
    wanted = _run(network, given)
    rounded = bool(_grids(network)) or _has_dynamic(network) if rounded is None else rounded
    least, most = (ROUNDED_TOLERANCE, MOST_ROUNDED) if rounded else (DENSE_TOLERANCE, MOST_DENSE)
    tolerances = [least] * len(wanted)
    differences = [relative_difference(theirs, ours) for ours, theirs in zip(wanted, found, strict=True)]
    if any(difference > least for difference in differences):
        own = [relative_difference(moved, ours) for ours, moved in zip(wanted, _moved(network, given), strict=True)]
        tolerances = [max(least, min(MARGIN * difference, most)) for difference in own]
    for output, difference, tolerance in zip(network.outputs, differences, tolerances, strict=True):
        # `not (… <= …)` also catches NaN.
        if not difference <= tolerance:
            raise ModelpressError(
                "export_disagrees",
                f"Output {output.name} of {name} differs from the network by {difference:.2g} of its size.",
            )


def _grids(network: Network) -> list[nn.Module]:
    """Those that are written as pairs of QuantizeLinear and DequantizeLinear; finer ones hide nothing."""
    return [module for module in network.graph.modules() if isinstance(module, ActivationGrid) and module.has_kernel]


def _has_dynamic(network: Network) -> bool:
    return any(isinstance(module, DynamicGrid) for module in network.graph.modules())


def _run(network: Network, given: tuple[Tensor, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        wanted = network.graph(*given)
    return [value.numpy() for value in ([wanted] if isinstance(wanted, Tensor) else wanted)]


def _moved(network: Network, given: tuple[Tensor, ...]) -> list[np.ndarray]:
    """The outputs of the network where the sums of each layer are moved by `SUM_ERROR` of their size."""
    generator = torch.Generator().manual_seed(PROBE_SEED)

    def move(module: nn.Module, inputs: object, output: object) -> Tensor | None:
        del module, inputs
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        size = output.square().mean().sqrt()
        return output + torch.randn(output.shape, generator=generator) * size * SUM_ERROR

    layers = [
        module
        for module in network.graph.modules()
        if not list(module.children()) and not isinstance(module, ActivationGrid | DynamicGrid)
    ]
    with _hooked(layers, move):
        return _run(network, given)


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Callable[..., object]) -> Iterator[None]:
    """The forward hook on each of the modules, for as long as this is open."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
