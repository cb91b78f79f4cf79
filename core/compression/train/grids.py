"""What is trained beside encoded weights: grids of activations, and integer biases, whose scale is not their own."""

from typing import final

import torch
from torch import Tensor, nn

from core.network.encodings import ActivationGrid, AffineInteger
from core.network.encodings.activation import SMALLEST_SCALE
from core.network.encodings.affine_integer import IntegerWeight
from core.network.encodings.straight_through import power_of_two_through, round_through
from core.network.encodings.trainable import TrainableWeight


@final
class LearningGrid(nn.Module):
    """An activation grid that stays in place while the network learns around it; its scale learns too (LSQ).

    The gradient passes where the value is inside of the range (arXiv 1902.08153, equations 3 and 5).
    """

    def __init__(self, grid: ActivationGrid) -> None:
        super().__init__()
        self.scale = nn.Parameter(grid.scale.detach().clone())
        self._bits, self._top, self._power_of_two, self._signed = grid.bits, grid.top, grid.power_of_two, grid.signed
        self._zero = int(grid.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, bit for bit as `ActivationGrid` puts it there."""
        ends = (float(-self._zero), float(self._top - self._zero))
        return round_through(x, self.step(), self._round, ends=ends)

    def step(self) -> Tensor:
        """The scale, kept above the smallest, and a power of two where it must be."""
        scale = self.scale.clamp_min(SMALLEST_SCALE)
        return power_of_two_through(scale) if self._power_of_two else scale

    def grid(self) -> ActivationGrid:
        """The grid as it is now."""
        scale = float(self.step().detach())
        return ActivationGrid(scale, self._zero, self._bits, power_of_two=self._power_of_two, signed=self._signed)

    def _round(self, x: Tensor, scale: Tensor) -> Tensor:
        """In place but for the first operation, since activations are large."""
        integers = torch.div(x, scale).round_().add_(self._zero).clamp_(0, self._top)
        return integers.sub_(self._zero).mul_(scale)


@final
class BoundBias(TrainableWeight):
    """A bias in 32-bit integers: runtimes add it to sums of products, so its scale is input scale × weight scale."""

    def __init__(self, bias: Tensor, start: AffineInteger, weight: IntegerWeight, grid: LearningGrid) -> None:
        super().__init__()
        self.latent = nn.Parameter(bias.detach().float().clone())
        self._start = start
        # In a tuple, since they are trained under other names.
        self._scales = (weight, grid)

    def forward(self) -> Tensor:
        """The rounded bias (channels,), with a straight-through gradient to the latent one alone."""
        levels = self._start.grid
        ends = (float(levels.low), float(levels.high))
        return round_through(self.latent, self._step(), self._round, ends=ends)

    def encode(self) -> AffineInteger:
        """The nearest integers at the product of both scales as they are now."""
        return self._start.rescaled(self.latent, self._step())

    def _round(self, latent: Tensor, scale: Tensor) -> Tensor:
        return self._start.rescaled(latent, scale).decode()

    def _step(self) -> Tensor:
        """The scale, which is learned elsewhere."""
        weight, grid = self._scales
        return weight.step().detach() * grid.step().detach()


def learn_grids(graph: nn.Module) -> dict[str, LearningGrid]:
    """Put what learns in the place of each activation grid; gives them by path."""
    grids = {path: LearningGrid(each) for path, each in graph.named_modules() if isinstance(each, ActivationGrid)}
    for path, grid in grids.items():
        graph.set_submodule(path, grid)
    return grids


def fix_grids(graph: nn.Module) -> None:
    """The opposite of `learn_grids`."""
    learning = [(path, each) for path, each in graph.named_modules() if isinstance(each, LearningGrid)]
    for path, each in learning:
        graph.set_submodule(path, each.grid())
