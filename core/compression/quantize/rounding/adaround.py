"""AdaRound (Nagel et al. 2020, arXiv 2004.10568): whether each weight goes up or down is learnt, layer by layer."""

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn

from core.compression.layer_walk import Rows, Tick
from core.compression.matrices import as_matrix, as_weight
from core.compression.quantize.rounding.gptq import best_floats, round_layer
from core.compression.quantize.rounding.rounder import Rounder, Task
from core.compression.second_moments import Moments, MomentSum
from core.network.encodings import AffineInteger, Elementwise
from core.network.encodings.blocks import Blocks
from core.specs.rounding import Rounding

# Bytes of the rows that are remembered of a layer.
ROWS_BYTES = 256 * 2**20
# The rectified sigmoid reaches beyond 0 and 1 by as much (equation 23).
_STRETCH = 0.1
# Of the steps the first ones have no regulariser; β falls from the first to the last value (section 3.3).
_WARM_UP, _BETAS = 0.2, (20.0, 2.0)
# Rows of a step, and those by which the outcome is judged.
_BATCH, _JUDGED = 128, 4096
# How far from a code of GPTQ a soft weight begins at most: it is the first choice, and the value beyond the second.
_NEAR = 0.45
# How far a latent can move in all, and in a step: few steps are larger.
_WAY, _FASTEST = 10.0, 0.1
# Weight of the regulariser beside the error, which is taken as a share of that of rounding to the nearest.
_LAMBDA = 1.0
_FLOAT_BYTES = 4
# Steps between two looks for a cancel.
_PAUSE = 20


@final
class AdaroundRows(Rows):
    """Some of the rows, with what the original gives there before its activation: (groups, rows, …)."""

    def __init__(self, task: Task) -> None:
        self._task = task
        groups, outputs, columns = task.matrix.shape
        fitting = ROWS_BYTES // (_FLOAT_BYTES * groups * (columns + 2 * outputs))
        # One row of each `stride` is taken.
        self._stride = max(-(-task.rows // max(fitting, 1)), 1)
        self._inputs: list[Tensor] = []
        self._wanted: list[Tensor] = []
        self._beside: list[Tensor] = []
        # Whether the ReLU is applied to what is known of the sum.
        self.clipped = task.relu

    def add(self, rows: Tensor, original: Tensor, beside: tuple[Tensor, Tensor] | None) -> None:
        """Remember every so many."""
        few = slice(None, None, self._stride)
        wanted = original[:, few] @ self._task.matrix.mT + self._task.bias.unsqueeze(1)
        own = self._task.bias.unsqueeze(1).expand(wanted.shape)
        if beside is not None:
            wanted, own = wanted + beside[1][:, few], own + beside[0][:, few]
        elif self._task.added:
            self.clipped = False
        self._inputs.append(rows[:, few].clone())
        self._wanted.append(wanted)
        self._beside.append(own)

    def joined(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """x̂, what is wanted, and what is added to Ŵ·x̂, in a drawn order; what was remembered is gone then."""
        count = sum(part.shape[1] for part in self._inputs)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        found = tuple(torch.cat(parts, 1)[:, order] for parts in (self._inputs, self._wanted, self._beside))
        self._inputs, self._wanted, self._beside = [], [], []
        return found[0], found[1], found[2]


@final
@dataclass(frozen=True)
class Adaround(Rounder[AdaroundRows]):
    """Inputs of the network as it is rounded so far, answers of the float one, through the activation (equation 25).

    It begins at the scales that GPTQ finds, and at the floats that GPTQ rounds, instead of those of the network: at
    few bits a weight has to be free to leave both its neighbours on the grid. What GPTQ gives is kept where it is
    better.
    """

    asked: Rounding
    seed: int = 0

    def collect(self, task: Task) -> AdaroundRows:
        """The rows themselves."""
        return AdaroundRows(task)

    def remembered(self, groups: int, outputs: int, columns: int) -> int:  # noqa: ARG002  never more
        """As much for every layer."""
        return ROWS_BYTES

    def choose(self, task: Task, rows: AdaroundRows, tick: Tick) -> Elementwise:
        """Every weight up or down, after `steps` updates."""
        clipped, steps = rows.clipped, self.asked.steps
        inputs, wanted, beside = rows.joined(self.seed)
        moments = _moments(task, inputs, wanted - beside)
        start = cast("AffineInteger", round_layer(task, moments, self.asked, tick))
        if clipped:
            wanted = wanted.relu()
        soft = SoftIntegers(task, start, best_floats(task.matrix, moments, self.asked))
        adam = torch.optim.Adam([soft.latent], lr=min(_WAY / steps, _FASTEST), fused=True)

        def answer(matrix: Tensor, few: slice) -> Tensor:
            found = torch.baddbmm(beside[:, few], inputs[:, few], matrix.mT)
            return found.relu_() if clipped else found

        def error(matrix: Tensor) -> Tensor:
            few = slice(_JUDGED)
            return (answer(matrix, few) - wanted[:, few]).square().mean()

        known = soft.matrix(start.decode())
        size = error(known).clamp_min(torch.finfo(torch.float32).tiny)
        batches = max(inputs.shape[1] // _BATCH, 1)
        for step in range(steps):
            if step % _PAUSE == 0:
                tick()
            few = slice(step % batches * _BATCH, (step % batches + 1) * _BATCH)
            found = answer(soft.values(), few)
            missing = found - wanted[:, few]
            if clipped:
                missing.mul_(found > 0)
            slope = torch.bmm(missing.mT, inputs[:, few]).mul_(2 / (missing.numel() * size))
            soft.latent.grad = soft.gradient(slope, step / steps)
            adam.step()
        learnt = soft.hard()
        return start.at(as_weight(task.layer, learnt)) if float(error(learnt)) < float(size) else start


def _moments(task: Task, inputs: Tensor, wanted: Tensor) -> tuple[Moments, ...]:
    """Those of rows that are all at hand; `wanted` is what Ŵ·x̂ has to give."""
    total = MomentSum(task.matrix.shape[0], task.matrix.shape[2])
    total.add(inputs, inputs, wanted - inputs @ task.matrix.mT)
    return total.moments()


@final
class SoftIntegers:
    """scale · clip(⌊W / scale⌋ + h(V), low, high), equation 22, with the rectified sigmoid h of equation 23.

    Gradients are written out, since layers are small and each operation that autograd adds costs as much as a product.
    """

    def __init__(self, task: Task, start: AffineInteger, floats: Tensor) -> None:
        self._task = task
        blocks, grid = Blocks(start.shape, start.axis, start.grid.group), start.grid

        def spread(value: Tensor) -> Tensor:
            return as_matrix(task.layer, blocks.spread(value.float()).expand(blocks.view).reshape(start.shape))

        zero = torch.full_like(start.scale, grid.zero_point) if start.zero_points is None else start.zero_points
        self._scale = spread(start.scale)
        codes = (as_matrix(task.layer, start.decode()) / self._scale).round()
        away = (floats / self._scale - codes).clamp(-_NEAR, _NEAR)
        self._floor = codes + away.sign().clamp_max(0)
        # What of h(V) is left once the integer is clipped.
        self._least = spread(grid.low - zero.float()) - self._floor
        self._most = spread(grid.high - zero.float()) - self._floor
        if task.mask is not None:
            self._scale = torch.where(task.mask, self._scale, 0.0)
        rest = (codes + away - self._floor + _STRETCH) / (1 + 2 * _STRETCH)
        self.latent = nn.Parameter(rest.logit(), requires_grad=False)

    def matrix(self, weight: Tensor) -> Tensor:
        """A weight as a matrix, without what a mask leaves out."""
        found = as_matrix(self._task.layer, weight)
        return found if self._task.mask is None else torch.where(self._task.mask, found, 0.0)

    def values(self) -> Tensor:
        """The soft weights."""
        return self._clip(self._share()).add_(self._floor).mul_(self._scale)

    def hard(self) -> Tensor:
        """Up where h(V) is at least one half, else down."""
        return self._clip((self._share() >= 0.5).float()).add_(self._floor).mul_(self._scale)

    def regulariser(self, done: float) -> Tensor:
        """Mean of 1 − |2·h(V) − 1|^β (equation 24), 0 in the warm-up; `done` is the share of steps that are past."""
        if done < _WARM_UP:
            return self.latent.new_zeros(())
        return (1 - (2 * self._share() - 1).abs().pow(_beta(done))).mean()

    def gradient(self, slope: Tensor, done: float) -> Tensor:
        """That of the latent numbers, from that of the weights, with λ times that of the regulariser."""
        sigmoid = self.latent.sigmoid()
        share = sigmoid * (1 + 2 * _STRETCH) - _STRETCH
        found = (slope * self._scale).mul_((share >= self._least) & (share <= self._most))
        if done >= _WARM_UP:
            beta, ends = _beta(done), 2 * share - 1
            pull = ends.abs().pow_(beta - 1).copysign_(ends)
            found.sub_(pull, alpha=2 * beta * _LAMBDA / share.numel())
        found.mul_((share > 0) & (share < 1))
        return found.mul_(sigmoid * (1 - sigmoid)).mul_(1 + 2 * _STRETCH)

    def _share(self) -> Tensor:
        return self.latent.sigmoid().mul_(1 + 2 * _STRETCH).sub_(_STRETCH).clamp_(0, 1)

    def _clip(self, share: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(share, self._least), self._most)


def _beta(done: float) -> float:
    begin, end = _BETAS
    return begin + (end - begin) * (done - _WARM_UP) / (1 - _WARM_UP)
