"""Which places of a sample count: neither padding nor tokens whose label says that they are not judged."""

import math

from torch import Tensor

from core.compression.train.objective import TrainingBatch
from core.data.tokens import IGNORED, part_of_input
from core.network.network import Network

# Axes of (samples, tokens).
_RANK = 2


def find_mask(network: Network) -> int | None:
    """The place among the inputs of the mask of tokens (n, tokens), 1 where there is one; None without."""
    for place, tensor in enumerate(network.inputs):
        if len(tensor.shape) == _RANK and "float" not in tensor.dtype and part_of_input(tensor.name) == "mask":
            return place
    return None


def judged_places(batch: TrainingBatch, mask: int | None, shape: tuple[int, ...]) -> Tensor | None:
    """Of each place of `shape` (n, …) whether it is judged: by the labels, without them by the mask; None for all."""
    if batch.labels is not None:
        return batch.labels.reshape(shape) != IGNORED if batch.labels.numel() == math.prod(shape) else None
    return real_tokens(batch, mask, shape)


def real_tokens(batch: TrainingBatch, mask: int | None, shape: tuple[int, ...]) -> Tensor | None:
    """Of each token of `shape` (n, tokens) whether it is none of the padding; None without a mask of this shape."""
    found = None if mask is None else batch.inputs[mask]
    return found != 0 if found is not None and found.shape == shape else None
