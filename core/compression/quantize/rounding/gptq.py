"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded in turn, and those that follow make up for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.compression.layer_walk import Rows, Tick
from core.compression.matrices import as_weight
from core.compression.quantize.rounding.rounder import Rounder, Task
from core.compression.quantize.rounding.row_scales import has_row_scales, rescale_rows
from core.compression.quantize.rounding.snapper import Snapper
from core.compression.second_moments import WIDEST, Moments, MomentSum
from core.network.encodings import Elementwise
from core.specs.rounding import Rounding

# Columns between two updates of all that follow (algorithm 1 of the paper).
_BLOCK = 128
# What scales are multiplied by at first, each followed by so many sweeps, and how often the best are fitted then.
_FACTORS, _TRY_SWEEPS = (1.0, 1.2, 1.4, 1.6), 1
_FITS = 2


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

    def choose(self, task: Task, rows: GptqRows, tick: Tick) -> Elementwise:
        """Block by block of columns that are taken together."""
        return round_layer(task, rows.total.moments(), self.asked, tick)


def round_layer(task: Task, parts: Sequence[Moments], asked: Rounding, tick: Tick) -> Elementwise:
    """The encoding of a layer by the moments of all its columns; a row with scales of its own gets those that fit."""
    if asked.scales == "search" and len(parts) == 1 and has_row_scales(task.layer, task.template):
        values, factors = round_and_scale(task.matrix, parts[0], task.grid, asked, tick)
        return rescale_rows(task.layer, task.template, values, factors.squeeze(-1))
    found = [round_columns(task.matrix, part, task.grid, asked, tick) for part in parts]
    return task.template.at(as_weight(task.layer, torch.cat(found, -1)))


def best_floats(matrix: Tensor, parts: Sequence[Moments], asked: Rounding) -> Tensor:
    """The floats that are rounded: W' of the least error on the new inputs, in the shape of `matrix`."""
    return torch.cat([_Goal(matrix, part, asked).floats() for part in parts], -1)


def round_columns(matrix: Tensor, moments: Moments, grid: Snapper, asked: Rounding, tick: Tick) -> Tensor:
    """Values of the grid that nearly minimise E‖t − Ŵ·x̂‖² (see `Moments.missed`): (groups, outputs, columns).

    Of `matrix` the columns of the moments. Columns without inputs are rounded to the nearest. After GPTQ each column is
    chosen anew `asked.sweeps` times while the others stay (QuantEase, arXiv 2309.01885). `tick` is called between
    blocks.
    """
    goal = _Goal(matrix, moments, asked)
    return goal.stored(goal.round(goal.ordered(grid), asked.sweeps, tick))


def round_and_scale(
    matrix: Tensor, moments: Moments, grid: Snapper, asked: Rounding, tick: Tick
) -> tuple[Tensor, Tensor]:
    """As `round_columns`, with factors of the scales of each row, (groups, outputs, 1), that make its error small.

    Scales of the least squared error of weights clip what the inputs ask for: for some factors the whole row is
    rounded, the best is kept, and then the scale, which for given codes is a projection, and the codes are chosen in
    turn.
    """
    goal = _Goal(matrix, moments, asked)
    start = goal.ordered(grid)
    factors = torch.ones_like(matrix[..., :1])
    found, least = factors, torch.full_like(factors, torch.inf, dtype=torch.float64)
    for factor in _FACTORS:
        tried = goal.round(start.scaled(torch.full_like(factors, factor)), _TRY_SWEEPS, tick)
        error = goal.error(tried)
        better = error < least
        found, factors = torch.where(better, tried, found), torch.where(better, factor, factors)
        least = torch.minimum(error, least)
    for _ in range(_FITS):
        fit = goal.fit(found)
        factors = factors * fit
        found = goal.sweep(found * fit, start.scaled(factors), asked.sweeps, tick)
    return goal.stored(found), factors


@final
class _Goal:
    """The squared error of a layer's outputs, with its columns in the order in which they are rounded."""

    def __init__(self, matrix: Tensor, moments: Moments, asked: Rounding) -> None:
        self._columns = moments.columns
        self._order = _order(moments.second, by_power=asked.act_order)
        weight = matrix[..., moments.columns].double()
        self._along = self._order.unsqueeze(1).expand(weight.shape)
        rows = self._order.unsqueeze(-1).expand(moments.second.shape)
        self._hessian = _damped(moments.second.gather(1, rows).gather(2, rows.mT), asked.damping)
        lower = torch.linalg.cholesky(self._hessian)
        # The best float weights on the new inputs: W' = W + E[(t − W·x̂)x̂ᵀ]·H⁻¹.
        missed = moments.missed(matrix[..., moments.columns]).gather(2, self._along)
        self._wanted = weight.gather(2, self._along) + torch.cholesky_solve(missed.mT, lower).mT
        self._upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).float()

    def ordered(self, grid: Snapper) -> Snapper:
        """The grid of the columns."""
        return grid.ordered(self._order + self._columns.start)

    def round(self, grid: Snapper, sweeps: int, tick: Tick) -> Tensor:
        """GPTQ, and sweeps."""
        return self.sweep(_round(self._wanted.float(), self._upper, grid, tick), grid, sweeps, tick)

    def sweep(self, found: Tensor, grid: Snapper, sweeps: int, tick: Tick) -> Tensor:
        """Better values, from some of the grid on."""
        wanted, hessian = self._wanted.float(), self._hessian.float()
        for _ in range(sweeps):
            found = _sweep(wanted, found, hessian, grid, tick)
        return found

    def error(self, found: Tensor) -> Tensor:
        """Of each row: (groups, outputs, 1), in doubles."""
        missing = self._wanted - found
        return ((missing @ self._hessian) * missing).sum(-1, keepdim=True)

    def fit(self, found: Tensor) -> Tensor:
        """By which factor each row comes nearest, 1 where none above 0 does: (groups, outputs, 1)."""
        pulled = found.double() @ self._hessian
        size = (pulled * found).sum(-1, keepdim=True)
        factor = (pulled * self._wanted).sum(-1, keepdim=True) / size.clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where((size > 0) & (factor > 0), factor, 1.0).float()

    def floats(self) -> Tensor:
        """The weights without an error."""
        return self.stored(self._wanted.float())

    def stored(self, found: Tensor) -> Tensor:
        """With the columns in the order of the weight."""
        return torch.empty_like(found).scatter_(2, self._along, found)


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
