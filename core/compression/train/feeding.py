"""Which samples each update sees: every epoch in an order of its own that depends on the seed alone."""

from typing import final

import numpy as np
import torch

from core.compression.train.augmentation import Augmenter
from core.compression.train.objective import TrainingBatch
from core.data.access import RandomAccess
from core.network.network import Network

# Keeps the draws of orders apart from those of changes to images, which start from the same seed.
_ORDER = 0x0E0C


@final
class Feeder:
    """Batches by the number of the update, so that training can begin anywhere in its course."""

    def __init__(
        self, access: RandomAccess, names: tuple[str, ...], *, batch: int, seed: int, augmenter: Augmenter
    ) -> None:
        """`names` are the inputs of the network in order; `batch` must not be larger than the split."""
        self._access, self._names, self._augmenter = access, names, augmenter
        self.batch_size = batch
        self._seed = seed
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    @property
    def per_epoch(self) -> int:
        """Updates in an epoch; samples that fill no batch are left to the next one."""
        return len(self._access) // self.batch_size

    def batch(self, update: int) -> TrainingBatch:
        """The samples of an update, counted from 0."""
        epoch, place = divmod(update, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, _ORDER, epoch)).permutation(len(self._access))
        rows = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        found = self._access.take(rows)
        inputs = self._augmenter.apply(found.inputs, update)
        return TrainingBatch(
            inputs=tuple(inputs[name] for name in self._names),
            labels=found.labels,
            rows=torch.from_numpy(rows),
            split=self._access.split,
            augmented=bool(self._augmenter),
        )


def fixed_batch(network: Network) -> int | None:
    """The number of samples of a network that knows only one; None for those that take any."""
    first = network.inputs[0].shape[0] if network.inputs[0].shape else None
    return first if isinstance(first, int) else None


def part_of(batch: TrainingBatch, start: int, size: int) -> TrainingBatch:
    """`size` samples of a batch from `start` on, or what is left of it."""
    end = start + size
    return TrainingBatch(
        inputs=tuple(tensor[start:end] for tensor in batch.inputs),
        labels=None if batch.labels is None else batch.labels[start:end],
        rows=batch.rows[start:end],
        split=batch.split,
        augmented=batch.augmented,
    )


def on_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    """The batch where the network is; rows stay."""
    if device.type == "cpu":
        return batch
    return TrainingBatch(
        inputs=tuple(tensor.to(device) for tensor in batch.inputs),
        labels=None if batch.labels is None else batch.labels.to(device),
        rows=batch.rows,
        split=batch.split,
        augmented=batch.augmented,
    )
