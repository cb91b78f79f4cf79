"""Rounding with a gradient: learned step size quantization (LSQ, Esser et al. 2020, arXiv 1902.08153)."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

# Share of a range by which a value may leave it and count as inside, so that its ends are.
_MARGIN: Final = 1e-6


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        latent: Tensor,
        scale: Tensor,
        rounding: Callable[[Tensor, Tensor], Tensor],
        ends: tuple[float | Tensor, float | Tensor],
        returns: bool,
    ) -> Tensor:
        rounded = rounding(latent, scale)
        ctx.save_for_backward(latent, scale, rounded)
        ctx.ends, ctx.returns = ends, returns
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        latent, scale, rounded = ctx.saved_tensors
        (gradient,), (low, high) = gradients, ctx.ends
        whole = scale.numel() == 1 and not ctx.returns and isinstance(low, float) and isinstance(high, float)
        if whole:
            within = of_latent = _within(gradient, latent, float(scale), low, high)
        else:
            excess = latent - torch.clamp(latent, torch.as_tensor(low * scale), torch.as_tensor(high * scale))
            within = torch.where(excess == 0, gradient, 0.0)
            of_latent = gradient.masked_fill(excess.mul_(gradient) < 0, 0.0) if ctx.returns else within
        # Equation 3, times the scale: the rounding error within the grid, its end outside.
        slope = torch.sub(rounded, latent).mul_(within).addcmul_(gradient - within, rounded)
        of_scale = slope.sum_to_size(scale.shape) / scale
        # Section 2.2: the gradient is scaled by 1/√(N·Q), N weights a scale, Q the largest level.
        weights = latent.numel() / scale.numel()
        return of_latent, of_scale / (torch.as_tensor(high).clamp_min(1.0) * weights).sqrt(), None, None, None


def _within(gradient: Tensor, latent: Tensor, scale: float, low: float, high: float) -> Tensor:
    """The gradient where the latent value is within one range for all, in a single pass."""
    margin = _MARGIN * (high - low)
    found: Tensor = torch.ops.aten.hardtanh_backward(gradient, latent, (low - margin) * scale, (high + margin) * scale)
    return found


def round_through(
    latent: Tensor,
    scale: Tensor,
    rounding: Callable[[Tensor, Tensor], Tensor],
    *,
    ends: tuple[float | Tensor, float | Tensor],
    returns: bool = False,
) -> Tensor:
    """What `rounding` makes of `latent` and `scale` (which broadcasts to it), with the gradients of rounding.

    `rounding` gives a new tensor of the latent's shape and is not differentiated. `ends` are the least and the largest
    level, in units of the scale and counted from zero; tensors where they differ, and then as the scale. With `returns`
    what lies outside of them has a gradient where it is drawn back: a latent weight is a parameter, and would else be
    lost for good as soon as its scale shrinks, which of few levels are most weights.
    """
    made: Tensor = _Rounded.apply(latent, scale, rounding, ends, returns)  # type: ignore[no-untyped-call]  # torch's
    return made


def power_of_two_through(scale: Tensor) -> Tensor:
    """The nearest powers of two by exponent, which move with `scale` in proportion."""
    # A factor of exactly one that has the gradient; a sum would round.
    return torch.exp2(torch.log2(scale.detach()).round()) * (scale / scale.detach())
