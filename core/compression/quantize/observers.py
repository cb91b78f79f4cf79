"""What is remembered of an activation while calibration samples run: a histogram of fixed size whose range can grow."""

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 16_384
_SMALLEST_EXPONENT = -64


@final
class Histogram:
    """Counts of values in `BINS` equal bins over −radius … radius, with the exact smallest and largest value.

    The radius is a power of two. When a value falls outside, it doubles and neighbouring bins merge without loss, so
    the result does not depend on how the samples were cut into batches. Memory is 128 KiB however many there are.
    """

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")
        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self._exponent = _SMALLEST_EXPONENT

    @property
    def radius(self) -> float:
        """Half the width that the bins cover."""
        return 2.0**self._exponent

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        width = 2 * self.radius / BINS
        return (np.arange(BINS, dtype=np.float64) + 0.5) * width - self.radius

    def add(self, values: Tensor) -> None:
        """Count the values of a tensor of any shape; values must be finite."""
        flat = values.detach().flatten().float()
        if not flat.numel():
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low), abs(high)))
        counted = torch.histc(flat, BINS, min=-self.radius, max=self.radius)
        self.counts += counted.numpy().astype(np.int64)

    def _grow(self, magnitude: float) -> None:
        wanted = max(int(np.ceil(np.log2(magnitude))), self._exponent) if magnitude > 0 else self._exponent
        while self._exponent < wanted:
            if not self.counts.any():
                self._exponent = wanted
                return
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, dtype=np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self._exponent += 1
