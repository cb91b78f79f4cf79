"""Samples of a split in any order, as training asks for them: from memory where they fit, else from their files."""

import math
from typing import final

import numpy as np
import torch
from torch import Tensor

from core.data.columns import CHUNK_ROWS, Rows
from core.data.dataset import Batch, Dataset
from core.description import SplitName

# Tensors of a split that are kept rather than made anew for each batch.
KEPT_BYTES = 384 * 2**20


@final
class RandomAccess:
    """One split of a data set; what `take` gives is the same whether samples are kept in memory or not."""

    def __init__(self, dataset: Dataset, split: SplitName, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._dataset = dataset
        self.split: SplitName = split
        self.kept_bytes = _total(dataset.take(split, np.zeros(1, np.int64))) * dataset.count(split)
        self._kept: Batch | None = None
        if self.kept_bytes > kept_bytes:
            self.kept_bytes = 0
        else:
            self._kept = _join(list(dataset.batches(split, CHUNK_ROWS)))

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


def _join(batches: list[Batch]) -> Batch:
    labels = [batch.labels for batch in batches if batch.labels is not None]
    inputs = {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    return Batch(inputs, torch.cat(labels) if labels else None)


def _total(batch: Batch) -> int:
    tensors: list[Tensor] = list(batch.inputs.values())
    if batch.labels is not None:
        tensors.append(batch.labels)
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors)
