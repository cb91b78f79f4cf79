"""Rounding with a gradient: learned step size quantization (LSQ, Esser et al. 2020, arXiv 1902.08153)."""

from typing import Any

import torch
from torch import Tensor


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, rounded: Tensor, returns: bool, *ends: Tensor) -> Tensor:
        ctx.save_for_backward(latent, scale, rounded, *ends)
        ctx.returns = returns
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        latent, scale, rounded, low, high = ctx.saved_tensors
        (gradient,) = gradients
        ratio = latent / scale
        inside = (ratio >= low) & (ratio <= high)
        passes = inside
        if ctx.returns:
            passes = inside | ((ratio > high) & (gradient > 0)) | ((ratio < low) & (gradient < 0))
        of_latent = torch.where(passes, gradient, torch.zeros_like(gradient))
        # Equation 3: round(v) − v within the grid, its end outside.
        slope = rounded / scale - torch.where(inside, ratio, torch.zeros_like(ratio))
        of_scale = (gradient * slope).sum_to_size(scale.shape)
        # Section 2.2: the gradient is scaled by 1/√(N·Q), N weights a scale, Q the largest level.
        weights = latent.numel() / scale.numel()
        return of_latent, of_scale / torch.sqrt(weights * high.clamp_min(1.0)), None, None, None, None


def round_through(
    latent: Tensor, scale: Tensor, rounded: Tensor, *, ends: tuple[Tensor, Tensor], returns: bool = False
) -> Tensor:
    """`rounded`, with the gradients of rounding `latent` (same shape) at `scale` (one that broadcasts to it).

    `ends` are the least and the largest level, in units of the scale and counted from zero; () or as the scale. With
    `returns` what lies outside of them has a gradient where it is drawn back: a latent weight is a parameter, and would
    else be lost for good as soon as its scale shrinks, which of few levels are most weights.
    """
    made: Tensor = _Rounded.apply(latent, scale, rounded, returns, *ends)  # type: ignore[no-untyped-call]  # torch's
    return made


def power_of_two_through(scale: Tensor) -> Tensor:
    """The nearest powers of two by exponent, which move with `scale` in proportion."""
    # A factor of exactly one that has the gradient; a sum would round.
    return torch.exp2(torch.log2(scale.detach()).round()) * (scale / scale.detach())
