"""What the specs have in common that give weights a few values and leave activations as they are."""

from abc import ABC
from typing import ClassVar, Literal

from pydantic import Field

from core.description import ModelDescription
from core.specs.base import Capability, Family, Needs, Spec, WorksOn
from core.specs.composition import EncodingKind
from core.specs.linear import is_quantizable
from core.specs.named_layers import list_alone, tell_unknown
from core.specs.rounding import Rounding

_NOTHING_LEFT = "No convolution, linear layer or table of embeddings is left to quantize."
# What a grid may replace or lie under a mask of; the factors of a low rank are not reached.
GRIDS: frozenset[EncodingKind] = frozenset({"dense", "masked", "half", "affine_integer", "codebook", "log2"})


class FewValues(Spec, ABC):
    """Weights of convolutions, linear layers and tables of embeddings, each on its own; biases stay float."""

    family: ClassVar[Family] = "quantize"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    works_on: ClassVar[WorksOn] = "network"
    takes: ClassVar[frozenset[EncodingKind]] = GRIDS

    rounding: Rounding = Field(Rounding(), description="How weights are rounded to these values.")
    first_last: Literal["same", "float"] = Field(
        "same",
        description="float: the first and the last of these layers stay float. They are often the most sensitive; "
        "where one is a table of embeddings or a wide head, it can be most of the file.",
    )
    keep_float: tuple[str, ...] = Field((), description="Names of layers that stay float.")

    def calibration_samples(self) -> int:
        """Those of the rounding; none where each weight is rounded for itself."""
        return self.rounding.calibration_samples()

    def requires(self, description: ModelDescription) -> Capability:
        """There must be a convolution, linear layer or table left, and names in `keep_float` must exist."""
        if description.mode == "onnx_only":
            return Capability(ok=False, why=f"The file could not be read as a network: {description.why}")
        if why := tell_unknown(description, keep_float=self.keep_float):
            return Capability(ok=False, why=why)
        names = list_alone(description, is_quantizable)
        chosen = tuple(name for name in self.between(names) if name not in self.keep_float)
        return Capability(ok=bool(chosen), layers=chosen, why=None if chosen else _NOTHING_LEFT)

    def between(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Of the layers in the order of the graph those that do not stay float for being the first or the last."""
        return names[1:-1] if self.first_last == "float" else names
