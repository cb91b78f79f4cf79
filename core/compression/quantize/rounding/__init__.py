"""Which value of its grid each weight gets: the nearest, or the one that a layer's inputs ask for."""

from core.compression.layer_walk import Progress
from core.compression.quantize.rounding.choice import round_weights
from core.compression.relay import Samples

__all__ = ["Progress", "Samples", "round_weights"]
