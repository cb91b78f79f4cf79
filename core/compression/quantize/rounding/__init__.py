"""Which value of its grid each weight gets: the nearest, or the one that a layer's inputs ask for."""

from core.compression.quantize.rounding.choice import Progress, Samples, round_weights

__all__ = ["Progress", "Samples", "round_weights"]
