"""Whether a layer's weights share one scale or have one for each output channel."""

import torch
from torch import Tensor, nn

from core.network.encodings import AffineInteger, Grid

# With one scale onnxruntime's small products are up to 17 % faster (LeNet-300 at batch 1). It is used where rounding
# leaves the weights about as clean as 8 bits leave the activations of trained networks (33 to 38 dB), and where no
# channel, however small its weights, loses more than an eighth of itself (18 dB).
CLEAN_DB = 32.0
CLEAN_CHANNEL_DB = 18.0
_EQUAL_DB = 200.0


def scale_axis(layer: nn.Module, grid: Grid) -> int | None:
    """The axis of the weight (outputs first) along which scales differ: 0, or None for one scale."""
    if not isinstance(layer, nn.Linear):
        return 0
    weight = layer.weight.detach()
    shared = AffineInteger.of(weight, grid=grid, axis=None).decode()
    signal, noise = weight.double().square(), (shared.double() - weight.double()).square()
    clean = _decibels(signal.sum(), noise.sum()) >= CLEAN_DB
    whole = bool((_decibels(signal.sum(1), noise.sum(1)) >= CLEAN_CHANNEL_DB).all())
    return None if clean and whole else 0


def _decibels(signal: Tensor, noise: Tensor) -> Tensor:
    """Elementwise; where there is no noise, and so also in channels of zeros, `_EQUAL_DB`."""
    ratio = 10 * torch.log10(signal / noise)
    return torch.where(noise > 0, ratio, torch.full_like(ratio, _EQUAL_DB))
