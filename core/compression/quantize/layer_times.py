"""How long each layer takes in the runtime, as floats and on integers: what a budget of time is shared out by."""

import statistics
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from core.compression.context import Context
from core.measure.feeds import make_feed
from core.measure.profile import share_time
from core.measure.runtime import open_session, run_session
from core.network.export import export_onnx
from core.network.network import Network

_WARM_UP: Final = 5
_RUNS: Final = 50


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of a run: by path of a layer as floats and on integers, and of all else when all layers are floats.

    What lies between the layers is slower or faster where they are integers; each layer bears an equal part of that.
    """

    floats: Mapping[str, float]
    integers: Mapping[str, float]
    rest: float

    @property
    def float_total(self) -> float:
        """Of the float network."""
        return self.rest + sum(self.floats.values())


def time_layers(
    original: Network, quantized: Network, layers: Collection[str], inputs: tuple[Tensor, ...], context: Context
) -> LayerTimes:
    """Time both networks as files, in turns, at the first batch size and the threads of the target.

    `inputs` are a few samples that the files are checked on. Raises `export_disagrees`.
    """
    threads, batch = context.target.threads, context.target.batch_sizes[0]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("float.onnx", "integers.onnx")]
        for network, file in zip((original, quantized), files, strict=True):
            export_onnx(network, file, probes=inputs)
        sessions = [open_session(file, threads) for file in files]
        feed = make_feed(sessions[0], context.needed_dataset(), batch)
        times: list[list[float]] = [[], []]
        for run in range(_WARM_UP + _RUNS):
            context.progress(0.35 + 0.05 * run / (_WARM_UP + _RUNS), "Timing the layers")
            for session, own in zip(sessions, times, strict=True):
                begin = time.perf_counter()
                run_session(session, feed)
                own.append(1000 * (time.perf_counter() - begin))
        totals = [statistics.median(own[_WARM_UP:]) for own in times]
        shares = [share_time(file, feed, sorted(layers), threads=threads).layers for file in files]
    found = [{layer: share * total for layer, share in own.items()} for own, total in zip(shares, totals, strict=True)]
    rests = [total - sum(own.values()) for own, total in zip(found, totals, strict=True)]
    between = (rests[1] - rests[0]) / max(len(layers), 1)
    return LayerTimes(found[0], {layer: own + between for layer, own in found[1].items()}, rests[0])
