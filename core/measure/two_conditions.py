"""The two conditions on which quantization makes a network faster: faster arithmetic, and little time lost around it.

The first is a roofline (Williams, Waterman and Patterson 2009) of two kinds of products: of matrices, which arithmetic
limits, and of a matrix by few rows, which the way of the weights from memory limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core.measure.kernels import Kernel, integer_share
from core.measure.profile import TimeShares, find_layer
from core.measure.roofline import Peak, Roofline
from core.verdict import SpeedLimit, Speedup, TwoConditions

# Products of so many rows take as long as of one, since their weights are read once for all.
FEW_ROWS = 4

Why = Literal["activations", "float_weight", "no_kernel"]
FLOATS = frozenset({"float32", "float16", "bfloat16"})


@dataclass(frozen=True, slots=True)
class FloatProducts:
    """Products that stay float for one reason, by the layers that they belong to, with their share of all.

    They are of two activations, of a weight that is stored in floats, or of one that is decoded to floats while the
    file is loaded, since no integer kernel takes it.
    """

    why: Why
    layers: tuple[str, ...]
    share: float


@dataclass(frozen=True, slots=True)
class Products:
    """The products of a result, traced at `batch` samples, and the roofline of the runtime that computes them."""

    kernels: tuple[Kernel, ...]
    batch: int
    roofline: Roofline

    def weigh(self, speedups: Sequence[Speedup], shares: TimeShares, seconds: float) -> TwoConditions:
        """Both conditions in numbers, with the limit at each batch size that was timed.

        `shares` and `seconds` are of one run of the result at the first of them.
        """
        spent = shares.integer * seconds
        return TwoConditions(
            gemm=self.roofline.gemm.ratio,
            gemv=self.roofline.gemv.ratio,
            integer_macs=integer_share(self.kernels),
            conversion_share=shares.conversions,
            integer_time=shares.integer,
            integer_rate=self._least_time(speedups[0].batch) / spent if spent else 0.0,
            limits=tuple(self._limit(speedup) for speedup in speedups),
        )

    def _least_time(self, batch: int) -> float:
        """Seconds that the integer kernels would take at their peak."""
        integers = (kernel for kernel in self.kernels if kernel.integer)
        at_peak = sum(kernel.macs / self._peak(kernel, batch).integer_rate for kernel in integers)
        return at_peak * batch / self.batch

    def _limit(self, speedup: Speedup) -> SpeedLimit:
        single = whole = real = 0.0
        for kernel in self.kernels:
            peak = self._peak(kernel, speedup.batch)
            before, after = kernel.macs / peak.float_rate, kernel.macs / peak.integer_rate
            single += before
            whole += after
            real += after if kernel.integer else before
        ceiling, attainable = (single / whole, single / real) if single else (1.0, 1.0)
        return SpeedLimit(batch=speedup.batch, ceiling=ceiling, attainable=attainable, reached=speedup.ratio / ceiling)

    def _peak(self, kernel: Kernel, batch: int) -> Peak:
        few = kernel.rows * batch <= FEW_ROWS * self.batch
        return self.roofline.gemv if few else self.roofline.gemm


def list_float_products(kernels: Sequence[Kernel], encodings: Mapping[str, str]) -> tuple[FloatProducts, ...]:
    """What is not computed in integers and why, the most first; `encodings` are those of the layers by name."""
    total = max(sum(kernel.macs for kernel in kernels), 1)
    macs: dict[Why, int] = {}
    layers: dict[Why, dict[str, None]] = {}
    for kernel in kernels:
        if kernel.integer:
            continue
        layer = find_layer(kernel.names, tuple(encodings))
        stored = encodings.get(layer, "float32") if layer is not None else "float32"
        why: Why = "float_weight" if _is_float(stored) else "no_kernel"
        why = why if kernel.weighted else "activations"
        macs[why] = macs.get(why, 0) + kernel.macs
        if layer is not None and kernel.weighted:
            layers.setdefault(why, {})[layer] = None
    ranked = sorted(macs, key=lambda why: -macs[why])
    return tuple(FloatProducts(why, tuple(layers.get(why, ())), macs[why] / total) for why in ranked)


def _is_float(encoding: str) -> bool:
    """By the name of an encoding: floats, whole or masked, or factors of low rank."""
    return encoding.rsplit(maxsplit=1)[-1] in FLOATS or encoding.startswith("rank ")
