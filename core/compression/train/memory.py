"""How many samples fit into memory while they are learnt from."""

import os
import resource

import psutil
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from core.compression.train.feeding import part_of
from core.compression.train.mount import TrainableNetwork
from core.compression.train.objective import Objective, TrainingBatch

# Samples that are learnt from to see what one needs.
PROBES = 2
# Of the free memory, what saved values may take; the rest is for gradients on their way and for the kernels.
SHARE = 0.4


def choose_micro_batch(
    mounted: TrainableNetwork, objective: Objective, batch: TrainingBatch, *, free: int | None = None
) -> int:
    """How many samples of a batch go through the network at once: all, or a half, a quarter, … of them.

    Counts the bytes that a forward pass keeps for the backward one; `free` bytes are asked of the system if not given.
    """
    count = len(batch.rows)
    probes = min(PROBES, count)
    needed = _saved_bytes(mounted, objective, part_of(batch, 0, probes)) / probes
    room = (free_bytes() if free is None else free) * SHARE
    size = count
    while size > 1 and size * needed > room:
        size = (size + 1) // 2
    return size


def free_bytes() -> int:
    """Bytes that this process may still take: of the machine's free memory and of the limits set on the process."""
    found = [psutil.virtual_memory().available]
    held = psutil.Process(os.getpid()).memory_info()
    for limit, used in ((resource.RLIMIT_AS, held.vms), (resource.RLIMIT_DATA, held.rss)):
        soft, _hard = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            found.append(soft - used)
    return max(min(found), 0)


def _saved_bytes(mounted: TrainableNetwork, objective: Objective, batch: TrainingBatch) -> int:
    """Bytes of the values that are kept for the backward pass, weights apart; each storage once."""
    weights = {each.untyped_storage().data_ptr() for each in mounted.state_dict(keep_vars=True).values()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = objective(mounted(*batch.inputs), batch)
        found = sum(kept.values())
    del loss
    return found
