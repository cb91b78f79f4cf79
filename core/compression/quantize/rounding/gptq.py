"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded in turn, and those that follow make up for it."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.compression.layer_walk import Rows, Tick
from core.compression.quantize.rounding.rounder import Rounder, Task
from core.compression.quantize.rounding.snapper import Snapper
from core.compression.second_moments import WIDEST, Moments, MomentSum
from core.specs.rounding import Rounding

# Columns between two updates of all that follow (algorithm 1 of the paper).
_BLOCK = 128


@final
class GptqRows(Rows):
    """The moments of the rows."""

    def __init__(self, task: Task) -> None:
        self.total = MomentSum(task.matrix.shape[0], task.matrix.shape[2])

    def add(self, rows: Tensor, original: Tensor, beside: tuple[Tensor, Tensor] | None) -> None:
        """Add them up."""
        self.total.add(rows, original, None if beside is None else beside[1] - beside[0])


@final
@dataclass(frozen=True)
class Gptq(Rounder[GptqRows]):
    """By the answers of the float network on its own inputs (as GPTAQ, arXiv 2504.02692), on any grid."""

    asked: Rounding

    def collect(self, task: Task) -> GptqRows:
        """Moments."""
        return GptqRows(task)

    def remembered(self, groups: int, outputs: int, columns: int) -> int:
        """Two matrices of moments in doubles, and a third for what lies beside the outputs."""
        return 8 * groups * columns * (2 * min(columns, WIDEST) + outputs)

    def choose(self, task: Task, rows: GptqRows, tick: Tick) -> Tensor:
        """Block by block of columns that are taken together."""
        parts = rows.total.moments()
        return torch.cat([round_columns(task.matrix, part, task.grid, self.asked, tick) for part in parts], -1)


def round_columns(matrix: Tensor, moments: Moments, grid: Snapper, asked: Rounding, tick: Tick) -> Tensor:
    """Values of the grid that nearly minimise E‖t − Ŵ·x̂‖² (see `Moments.missed`): (groups, outputs, columns).

    Of `matrix` the columns of the moments. Columns without inputs are rounded to the nearest. After GPTQ each column is
    chosen anew `asked.sweeps` times while the others stay (QuantEase, arXiv 2309.01885). `tick` is called between
    blocks.
    """
    order = _order(moments.second, by_power=asked.act_order)
    weight = matrix[..., moments.columns].double()
    along = order.unsqueeze(1).expand(weight.shape)
    rows = order.unsqueeze(-1).expand(moments.second.shape)
    hessian = _damped(moments.second.gather(1, rows).gather(2, rows.mT), asked.damping)
    lower = torch.linalg.cholesky(hessian)
    # The best float weights on the new inputs: W' = W + E[(t − W·x̂)x̂ᵀ]·H⁻¹.
    missed = moments.missed(matrix[..., moments.columns]).gather(2, along)
    wanted = (weight.gather(2, along) + torch.cholesky_solve(missed.mT, lower).mT).float()
    ordered = grid.ordered(order + moments.columns.start)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    found = _round(wanted, upper.float(), ordered, tick)
    for _ in range(asked.sweeps):
        found = _sweep(wanted, found, hessian.float(), ordered, tick)
    return torch.empty_like(found).scatter_(2, along, found)


def _order(second: Tensor, *, by_power: bool) -> Tensor:
    """In which order the columns of each group are rounded: (groups, columns)."""
    groups, columns, _ = second.shape
    if not by_power:
        return torch.arange(columns).expand(groups, columns)
    return torch.diagonal(second, dim1=-2, dim2=-1).argsort(dim=-1, descending=True, stable=True)


def _damped(second: Tensor, damping: float) -> Tensor:
    """With a share of the mean power on the diagonal; columns without inputs get the mean, or 1 where all are."""
    power = torch.diagonal(second, dim1=-2, dim2=-1)
    mean = power.mean(-1, keepdim=True)
    added = torch.where(power > 0, damping * mean, torch.where(mean > 0, mean, 1.0))
    return second + torch.diag_embed(added)


def _round(weight: Tensor, upper: Tensor, grid: Snapper, tick: Tick) -> Tensor:
    """Algorithm 1; `upper` is the transposed Cholesky factor of the inverse."""
    weight = weight.clone()
    found = torch.empty_like(weight)
    for start in range(0, weight.shape[-1], _BLOCK):
        tick()
        stop = min(start + _BLOCK, weight.shape[-1])
        errors = weight.new_empty(*weight.shape[:2], stop - start)
        for column in range(start, stop):
            value = weight[..., column]
            snapped = grid.snap(value, column)
            found[..., column] = snapped
            error = (value - snapped) / upper[:, column, column].unsqueeze(-1)
            errors[..., column - start] = error
            weight[..., column + 1 : stop] -= error.unsqueeze(-1) * upper[:, column, column + 1 : stop].unsqueeze(1)
        weight[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return found


def _sweep(wanted: Tensor, found: Tensor, hessian: Tensor, grid: Snapper, tick: Tick) -> Tensor:
    """Each column in turn gets the best values beside the others: no sweep makes the error larger."""
    found = found.clone()
    for start in range(0, wanted.shape[-1], _BLOCK):
        tick()
        stop = min(start + _BLOCK, wanted.shape[-1])
        pull = (wanted - found) @ hessian[..., start:stop]
        block = hessian[:, start:stop, start:stop]
        for column in range(start, stop):
            own = column - start
            best = found[..., column] + pull[..., own] / block[:, own, own].unsqueeze(-1)
            change = grid.snap(best, column) - found[..., column]
            pull -= change.unsqueeze(-1) * block[:, own].unsqueeze(1)
            found[..., column] += change
    return found
