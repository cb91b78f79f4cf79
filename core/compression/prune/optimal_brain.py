"""Optimal brain surgeon for a layer: which weights go, and what the others become, so that its outputs change least.

Min ‖t − Ŵ·x̂ − b̂‖² over samples, as in Hassibi and Stork 1992, and ExactOBS (Frantar and Alistarh 2022, arXiv
2208.11580): each output of a product is a least-squares problem of its own, of second moments that all share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.compression.layer_walk import Rows, Tick
from core.compression.second_moments import WIDEST, Moments, MomentSum

# What is added to the power of each input, as a share of their mean: few samples say little of many inputs.
_DAMPING = 0.01
# The same for the constant input that stands for a bias, whose power is 1: enough to keep numbers in bounds.
_DAMPING_OF_BIAS = 1e-9
# Weights go in so many steps, after each of which the rest is fitted anew; of wide layers in fewer, since a step takes
# the cube of the inputs for each output.
_STEPS = ((640, 4), (1280, 2))
# Outputs between two looks for a cancel.
_PAUSE = 64

Pick = Callable[[Tensor, float], Tensor]
"""Which weights stay, by what each is worth (groups, outputs, columns), −1 of those that are gone, and how far the
choice is, up to 1."""


@final
class InputMoments(Rows):
    """Second moments of a layer's inputs, with a constant as the last one where the layer has a bias to fit."""

    def __init__(self, groups: int, columns: int, *, biased: bool) -> None:
        self._biased = biased
        self._total = MomentSum(groups, columns + biased)

    def add(self, rows: Tensor, original: Tensor, beside: tuple[Tensor, Tensor] | None) -> None:
        """Add them up."""
        if self._biased:
            constant = rows.new_ones(*rows.shape[:2], 1)
            rows, original = torch.cat((rows, constant), -1), torch.cat((original, constant), -1)
        self._total.add(rows, original, None if beside is None else beside[1] - beside[0])

    def problem(self, matrix: Tensor, bias: Tensor | None) -> "Surgery":
        """What is to be solved for a layer of such weights (groups, outputs, columns) and biases (groups, outputs)."""
        whole = matrix if bias is None else torch.cat((matrix, bias.unsqueeze(-1)), -1)
        parts = self._total.moments()
        return Surgery(tuple(_Part.of(whole, part, biased=bias is not None and part is parts[-1]) for part in parts))


def bytes_of_moments(groups: int, outputs: int, columns: int) -> int:
    """The most bytes that the moments of a layer take: two matrices in doubles, and a third for what lies beside."""
    return 8 * groups * (columns + 1) * (2 * min(columns + 1, WIDEST) + outputs)


@final
@dataclass(frozen=True)
class Surgery:
    """A layer's problem, in blocks of columns that are taken for independent; of up to 4,095 inputs in one."""

    parts: Sequence["_Part"]

    def choose(self, allowed: Tensor, pick: Pick, tick: Tick) -> Tensor:
        """Booleans (groups, outputs, columns): of the weights that are `allowed` those that `pick` keeps.

        Weights are worth w²/[H⁻¹]qq (arXiv 2208.11580, equation 3), where w is fitted and H⁻¹ is of what is left by
        then.
        """
        columns = sum(part.columns for part in self.parts)
        steps = next((steps for widest, steps in _STEPS if columns <= widest), 1)
        mask = allowed
        for step in range(1, steps + 1):
            worth = torch.cat([part.worth(mine, tick) for part, mine in self._split(mask)], -1)
            mask = allowed & pick(torch.where(mask, worth, -1.0), step / steps)
        return mask

    def fit(self, mask: Tensor, tick: Tick) -> tuple[Tensor, Tensor | None]:
        """The best weights (groups, outputs, columns) that are zero outside of the mask, and the biases with them."""
        found = [part.fit(mine, tick) for part, mine in self._split(mask)]
        bias = found[-1][..., -1] if self.parts[-1].biased else None
        return torch.cat(
            [values[..., : part.columns] for values, part in zip(found, self.parts, strict=True)], -1
        ), bias

    def _split(self, mask: Tensor) -> list[tuple["_Part", Tensor]]:
        masks = torch.split(mask, [part.columns for part in self.parts], -1)
        return list(zip(self.parts, masks, strict=True))


@final
@dataclass(frozen=True)
class _Part:
    """Damped moments H (groups, inputs, inputs) and the best weights with none gone, w' (groups, outputs, inputs).

    `dead` are the inputs (groups, inputs) that are always zero: nothing is worth anything there.
    """

    hessian: Tensor
    wanted: Tensor
    dead: Tensor
    biased: bool

    @classmethod
    def of(cls, matrix: Tensor, moments: Moments, *, biased: bool) -> "_Part":
        hessian = _damped(moments.second, biased=biased)
        own = matrix[..., moments.columns].double()
        # On the inputs that the layer is given now: W' = W + E[(t − W·x̂)x̂ᵀ]·H⁻¹.
        missed = moments.missed(matrix[..., moments.columns])
        wanted = own + torch.cholesky_solve(missed.mT, torch.linalg.cholesky(hessian)).mT
        return cls(hessian, wanted, torch.diagonal(moments.second, dim1=-2, dim2=-1) <= 0, biased)

    @property
    def columns(self) -> int:
        """Inputs without the constant one."""
        return self.wanted.shape[-1] - self.biased

    def worth(self, mask: Tensor, tick: Tick) -> Tensor:
        """w²/[H⁻¹]qq of each weight that the mask keeps, of others anything; without the biases."""
        mask = self._with_bias(mask)
        pull = self.wanted @ self.hessian
        worth = torch.zeros_like(self.wanted)
        for group, hessian in enumerate(self.hessian):
            if bool(mask[group].all()):
                tick()
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
                worth[group] = self.wanted[group].square() / inverse.diagonal()
                continue
            for row in self._rows(tick):
                kept = mask[group, row].nonzero().squeeze(1)
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[kept][:, kept]))
                worth[group, row, kept] = (inverse @ pull[group, row, kept]).square() / inverse.diagonal()
        return worth.masked_fill(self.dead.unsqueeze(1), 0.0)[..., : self.columns]

    def fit(self, mask: Tensor, tick: Tick) -> Tensor:
        """Min (ŵ − w')ᵀH(ŵ − w') for each output, by what is kept or by what goes, whichever is less."""
        mask = self._with_bias(mask)
        pull = self.wanted @ self.hessian
        found = torch.zeros_like(self.wanted)
        for group, hessian in enumerate(self.hessian):
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
            for row in self._rows(tick):
                kept, gone = (each.nonzero().squeeze(1) for each in (mask[group, row], ~mask[group, row]))
                if len(kept) <= len(gone):
                    found[group, row, kept] = _solve(hessian[kept][:, kept], pull[group, row, kept])
                else:
                    wanted = self.wanted[group, row]
                    found[group, row] = wanted - inverse[:, gone] @ _solve(inverse[gone][:, gone], wanted[gone])
        return torch.where(mask, found, 0.0)

    def _with_bias(self, mask: Tensor) -> Tensor:
        return torch.cat((mask, mask.new_ones(*mask.shape[:2], 1)), -1) if self.biased else mask

    def _rows(self, tick: Tick) -> Iterator[int]:
        """The outputs; `tick` is called now and then."""
        for row in range(self.wanted.shape[1]):
            if row % _PAUSE == 0:
                tick()
            yield row


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(1), torch.linalg.cholesky(matrix)).squeeze(1)


def _damped(second: Tensor, *, biased: bool) -> Tensor:
    """With a share of the mean power on the diagonal; inputs that are always zero get the mean, or 1 where all are."""
    power = torch.diagonal(second, dim1=-2, dim2=-1)
    mean = (power[..., :-1] if biased else power).mean(-1, keepdim=True)
    added = torch.where(power > 0, _DAMPING * mean, torch.where(mean > 0, mean, 1.0))
    if biased:
        added[..., -1] = _DAMPING_OF_BIAS
    return second + torch.diag_embed(added)
