"""What one block learns from: its inputs, and what the teacher gives at its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.compression.distill.blocks import Block, cut_out
from core.compression.train.feeding import fixed_batch
from core.compression.train.objective import Answers, Objective, TrainingBatch
from core.compression.yardstick import input_batches
from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.network.network import Network

# What the remembered values of one block may take, in bytes.
REMEMBERED_BYTES = 256 * 2**20
# Share of the samples that judge a block and are not learnt from.
HELD_OUT = 0.2
BATCH = 32


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs of a block, each (n, …), what the original gives there (n, …), and how many of them judge."""

    inputs: tuple[Tensor, ...]
    wanted: Tensor
    judging: int

    @property
    def learning(self) -> int:
        """Samples to learn from, which come first."""
        return len(self.wanted) - self.judging

    def batch(self, rows: Tensor) -> TrainingBatch:
        """These rows."""
        return TrainingBatch(tuple(value[rows] for value in self.inputs), None, rows)


@final
class BlockObjective(Objective):
    """Squared error as a share of the mean square of what is wanted, so that blocks are alike to the optimiser."""

    def __init__(self, wanted: Tensor) -> None:
        super().__init__()
        # In a tuple, so that it is neither a parameter nor kept.
        self._wanted = (wanted, wanted.square().mean().clamp_min(torch.finfo(wanted.dtype).tiny))

    def forward(self, answers: Answers, batch: TrainingBatch) -> Tensor:
        """The error of a batch."""
        wanted, size = self._wanted
        return (answers.outputs[0] - wanted[batch.rows]).square().mean() / size


def collect_samples(networks: tuple[Network, Network], block: Block, dataset: Dataset, *, limit: int) -> Samples:
    """Of up to `limit` calibration samples what a block is given by the first network, and what the second gives.

    Stops where memory would not hold more. Raises `missing_data` for too few.
    """
    ours, theirs = networks
    before = None if block.start is None else cut_out(ours, None, block.start)
    whole = cut_out(theirs, None, block.end)
    needed = {tensor.name for tensor in cut_out(ours, block.start, block.end).inputs}
    inputs: list[tuple[Tensor, ...]] = []
    wanted: list[Tensor] = []
    names = [tensor.name for tensor in theirs.inputs]
    for batch in input_batches(theirs, dataset, "calibration", limit=limit, batch=BATCH):
        named = dict(zip(names, batch, strict=True))
        given = () if before is None else (_answer(before, named),)
        inputs.append((*given, *(value for name, value in named.items() if name in needed)))
        wanted.append(_answer(whole, named))
        if _bytes(inputs) + _bytes([(value,) for value in wanted]) >= REMEMBERED_BYTES:
            break
    joined = tuple(torch.cat(values) for values in zip(*inputs, strict=True))
    count = len(joined[0]) if joined else 0
    # A network of a fixed batch size learns and is judged by whole batches.
    unit = fixed_batch(theirs) or 1
    judging = max(round(count * HELD_OUT / unit), 1) * unit
    if count - judging < unit:
        raise ModelpressError("missing_data", f"A block needs {2 * unit} samples at least to learn from.")
    return Samples(joined, torch.cat(wanted), judging)


def _answer(part: Network, named: Mapping[str, Tensor]) -> Tensor:
    """The first output of a part for those of a network's inputs that it takes."""
    with torch.no_grad():
        found = part.graph(*(named[tensor.name] for tensor in part.inputs))
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first


def _bytes(values: list[tuple[Tensor, ...]]) -> int:
    return sum(value.nbytes for each in values for value in each)
