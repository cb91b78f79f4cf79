"""A student that was cut out of its teacher, brought back to the scale of its teacher's values before it learns."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from core.compression.context import Context
from core.compression.distill.pairing import shapes_of
from core.compression.recalibration import match_moments
from core.compression.train.feeding import fixed_batch
from core.compression.train.trainer import training_split
from core.compression.yardstick import Inputs
from core.data.access import RandomAccess
from core.network.network import Network

# Samples that are looked at, and what the largest value inside may take of them, in bytes. Fewer say little of means.
SAMPLES, FEWEST = 256, 16
LARGEST_BYTES = 256 * 2**20


def recalibrate(student: Network, teacher: Network, kept: Mapping[str, Tensor], context: Context) -> None:
    """Match the moments of the student's layers with the teacher's, in place, as `match_moments` does.

    If the answers came no nearer to the teacher's, all is as it was.
    """
    batch = _one_batch(teacher, context)
    if batch is None:
        return
    before = {name: parameter.data for name, parameter in student.graph.named_parameters()}
    said = _answer(teacher, batch)
    distance = float((_answer(student, batch) - said).square().mean())
    match_moments(student, teacher, kept, batch)
    after = float((_answer(student, batch) - said).square().mean())
    if after < distance:
        context.log(
            f"The student's layers have the teacher's means and deviations: error {distance:.3g} → {after:.3g}."
        )
        return
    for name, parameter in student.graph.named_parameters():
        parameter.data = before[name]


def _answer(network: Network, batch: Inputs) -> Tensor:
    """The first output."""
    with torch.no_grad():
        given = network.graph(*batch)
    first: Tensor = given if isinstance(given, Tensor) else given[0]
    return first


def _one_batch(teacher: Network, context: Context) -> Inputs | None:
    """Samples from all over those to learn from, as many as memory holds the values of; None where they are few.

    Files are often sorted by label, so that the first samples would speak for one class.
    """
    dataset = context.needed_dataset()
    access = RandomAccess(dataset, training_split(dataset), kept_bytes=0)
    largest = max((torch.Size(shape).numel() for shape in shapes_of(teacher).values()), default=1)
    count = fixed_batch(teacher) or min(SAMPLES, LARGEST_BYTES // (4 * largest), len(access))
    if not FEWEST <= count <= len(access):
        return None
    found = access.take(np.linspace(0, len(access) - 1, count).astype(np.int64))
    return tuple(found.inputs[tensor.name] for tensor in teacher.inputs)
