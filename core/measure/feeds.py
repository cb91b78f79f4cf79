"""What a file is fed while it is timed."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from core.data.dataset import Dataset
from core.description import SplitName
from core.measure.runtime import repeat_samples, zero_feed

PREFERRED: tuple[SplitName, ...] = ("evaluation", "validation", "calibration", "train")


def make_feed(
    session: ort.InferenceSession, dataset: Dataset | None, batch: int, sizes: Mapping[str, int] = MappingProxyType({})
) -> dict[str, NDArray[Any]]:
    """`batch` samples of the data set, repeated if it has fewer; without one seeded noise, and zeros for integers.

    `sizes` has by name what stands for free sizes where there is no data set.
    """
    split = next((name for name in PREFERRED if dataset is not None and dataset.count(name)), None)
    if dataset is None or split is None:
        rng = np.random.default_rng(0)
        return {
            name: rng.normal(size=zeros.shape).astype(zeros.dtype) if zeros.dtype.kind == "f" else zeros
            for name, zeros in zero_feed(session, batch, sizes).items()
        }
    first = next(dataset.batches(split, batch, limit=batch))
    return repeat_samples(session, {name: tensor.numpy() for name, tensor in first.inputs.items()}, batch)
