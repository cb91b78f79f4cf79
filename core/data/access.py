"""Samples of a split in any order, as training asks for them: from memory where they fit, else from their files."""

import math
from typing import final

import numpy as np
import torch
from torch import Tensor

from core.data.columns import Rows
from core.data.dataset import Batch, Dataset
from core.description import SplitName
from core.errors import ModelpressError

# Samples that are read at once; they stay in the processor's caches until they are in place.
CHUNK_ROWS = 512
# Tensors of a split that are kept rather than made anew for each batch.
KEPT_BYTES = 384 * 2**20


@final
class RandomAccess:
    """One split of a data set; what `take` gives is the same whether samples are kept in memory or not."""

    def __init__(self, dataset: Dataset, split: SplitName, *, kept_bytes: int = KEPT_BYTES) -> None:
        """Raises `method_not_applicable` for inputs whose samples are not rows."""
        turned = [name for name, transform in dataset.transforms.items() if transform.batch_axis]
        if turned:
            sentence = (
                f"Training takes rows, and input `{turned[0]}` has its samples along another axis than the first."
            )
            raise ModelpressError("method_not_applicable", sentence, hint="Export it with its batch first.")
        self._dataset = dataset
        self.split: SplitName = split
        self.kept_bytes = _total(dataset.take(split, np.zeros(1, np.int64))) * dataset.count(split)
        self._kept: Batch | None = None
        if self.kept_bytes > kept_bytes:
            self.kept_bytes = 0
        else:
            self._kept = _read_whole(dataset, split)

    def __len__(self) -> int:
        return self._dataset.count(self.split)

    def take(self, positions: Rows) -> Batch:
        """The samples at these positions (n,) of the split; `pair` is left out."""
        if self._kept is None:
            return self._dataset.take(self.split, positions)
        chosen = torch.from_numpy(positions)
        inputs = {name: tensor.index_select(0, chosen) for name, tensor in self._kept.inputs.items()}
        labels = self._kept.labels
        return Batch(inputs, None if labels is None else labels.index_select(0, chosen))


def _read_whole(dataset: Dataset, split: SplitName) -> Batch:
    """All samples of a split; read a chunk at a time into their place, so that they are never there twice."""
    count = dataset.count(split)
    first = dataset.take(split, np.zeros(1, np.int64))
    inputs = {name: tensor.new_empty((count, *tensor.shape[1:])) for name, tensor in first.inputs.items()}
    labels = None if first.labels is None else first.labels.new_empty((count, *first.labels.shape[1:]))
    start = 0
    for batch in dataset.batches(split, CHUNK_ROWS):
        end = start + len(next(iter(batch.inputs.values())))
        for name, tensor in batch.inputs.items():
            inputs[name][start:end] = tensor
        if labels is not None and batch.labels is not None:
            labels[start:end] = batch.labels
        start = end
    return Batch(inputs, labels)


def _total(batch: Batch) -> int:
    tensors: list[Tensor] = list(batch.inputs.values())
    if batch.labels is not None:
        tensors.append(batch.labels)
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors)
