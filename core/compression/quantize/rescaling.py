"""What is done to a network before it is quantized and leaves its answers as they are: equalization and smoothing."""

from collections.abc import Iterator

from torch import Tensor

from core.compression.candidates import find_candidates
from core.compression.context import Context
from core.compression.quantize.equalization import equalize
from core.compression.quantize.smoothing import smooth
from core.compression.yardstick import input_batches
from core.network.network import Network
from core.specs.linear import LinearQuantization


def rescale(network: Network, spec: LinearQuantization, context: Context) -> tuple[Network, tuple[str, ...]]:
    """The network as it is quantized, and the layers that are no longer bit-identical; raises `missing_data`."""
    if not spec.equalize and spec.smooth is None:
        return network, ()
    candidates, _ = find_candidates(network, spec.keep_float, takes=spec.takes)
    layers = frozenset(each.path for each in candidates)
    changed: set[str] = set()
    if spec.smooth is not None:
        dataset = context.needed_dataset()
        batches = input_batches(network, dataset, "calibration", limit=spec.calibration.samples)
        network, smoothed = smooth(network, spec.smooth, _told(batches, context), layers)
        context.log(_tell("Smoothed", smoothed, "No layer norm is read by linear layers alone: nothing was smoothed."))
        changed.update(smoothed)
    if spec.equalize:
        network, evened = equalize(network, layers)
        context.log(
            _tell("Equalized", evened, "No two layers are linked by ReLU or pools alone: nothing was equalized.")
        )
        changed.update(evened)
    return network, tuple(sorted(changed))


def _told(batches: Iterator[tuple[Tensor, ...]], context: Context) -> Iterator[tuple[Tensor, ...]]:
    """The batches; a cancel is noticed between them."""
    for inputs in batches:
        context.progress(0.0, "Smoothing")
        yield inputs


def _tell(done: str, layers: tuple[str, ...], nothing: str) -> str:
    return f"{done}: {', '.join(layers)}." if layers else nothing
