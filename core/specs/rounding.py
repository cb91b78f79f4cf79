"""How weights are rounded to the values of their grid: what every method of the family `quantize` may ask for."""

from typing import Literal

from pydantic import Field

from core.specs.base import Asked


class Rounding(Asked):
    """Which value of its grid a weight gets. Bits, and so bytes, are the same with every method."""

    method: Literal["nearest", "gptq", "adaround"] = Field(
        "nearest",
        description="nearest: each weight alone, needs no data. gptq: the error of a weight is made up for by those "
        "that follow it, from the second moments of the layer's inputs (arXiv 2210.17323). adaround: from there on up "
        "or down is learnt, layer by layer (arXiv 2004.10568), which is slower, and kept where it is better; grids "
        "that are not of integers are left to gptq. Both want the answers of the float network from the inputs that "
        "rounded layers give (arXiv 2504.02692). Tables of embeddings and recurrent layers are rounded to the nearest.",
    )
    samples: int = Field(
        512, ge=1, le=100_000, description="Calibration samples that are run, in samples; not for `nearest`."
    )
    act_order: bool = Field(
        True,
        description="Not for `nearest`: weights whose inputs are largest come first, else in the order they are "
        "stored.",
    )
    sweeps: int = Field(
        3,
        ge=0,
        le=20,
        description="Not for `nearest`: how often each column is chosen anew afterwards while the others stay (arXiv "
        "2309.01885); 0 is GPTQ alone.",
    )
    scales: Literal["search", "nearest"] = Field(
        "search",
        description="Not for `nearest`. search: where each channel or group has a scale of its own, of up to 6 bits "
        "and no power of two, it is chosen by the error of the layer's outputs, together with the weights. nearest: as "
        "for rounding to the nearest, by the error of the weights.",
    )
    damping: float = Field(
        0.03,
        ge=0.0001,
        le=1.0,
        description="Not for `nearest`: what is added to each second moment, as a share of their mean; guards "
        "few samples.",
    )
    steps: int = Field(300, ge=10, le=100_000, description="For `adaround`: updates of each layer, in steps.")

    def calibration_samples(self) -> int:
        """None for `nearest`."""
        return 0 if self.method == "nearest" else self.samples
