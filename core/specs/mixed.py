"""The spec of `quantize.mixed`: for each layer its own number of bits, so that all together keep to a budget."""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.description import LayerDescription, ModelDescription
from core.specs.base import Asked, Capability, Family, Needs, OneOf, Spec, WorksOn
from core.specs.calibration import Calibration
from core.specs.composition import EncodingKind
from core.specs.linear import ActivationGrid, LayerGrid, LinearQuantization, Scale, WeightGrid
from core.specs.rounding import Rounding
from core.specs.weight_bits import Bits, packed

FLOAT_BITS = 32
FLOAT_BYTES = 4

Width = Annotated[int, Field(ge=2, le=8)]


class Budget(OneOf):
    """What all layers together may take: exactly one of these."""

    average_bits: float | None = Field(
        None, ge=2, le=FLOAT_BITS, description="Bits of a weight in the mean over the weights of all layers, in bits."
    )
    bytes: int | None = Field(
        None,
        gt=0,
        description="Bytes of all weights in the file, with scales, biases and what stays float; the graph comes on "
        "top.",
    )
    latency_ms: float | None = Field(
        None, gt=0, description="Median time of a run at the first batch size of the target, in milliseconds."
    )
    speedup: float | None = Field(
        None, gt=0, description="Time of the float model over that of the result, at the first batch size."
    )

    @property
    def of_time(self) -> bool:
        """Whether it is time that is limited."""
        return self.latency_ms is not None or self.speedup is not None


class SharedGrid(Asked):
    """What the grids of all layers have in common, whatever their bits."""

    symmetric: bool = Field(True, description="As for `quantize.linear`.")
    scale: Scale = Field("float", description="As for `quantize.linear`.")
    per: Literal["auto", "tensor", "channel", "group"] = Field(
        "channel", description="What shares a scale: as for `quantize.linear`."
    )
    group_size: int | None = Field(None, ge=2, le=65_536, description="For `per: group`: as for `quantize.linear`.")

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.group_size is not None and self.per != "group":
            raise ValueError("group_size is for `per: group` only")
        return self

    def at(self, bits: int) -> WeightGrid:
        """The grid with so many bits."""
        return WeightGrid(bits=bits, **self.model_dump())


class MixedQuantization(Spec):
    """Bits for each layer by what rounding it costs, chosen exactly (HAWQ-V3, arXiv 2011.10680, section 3.4).

    A layer that matters more gets more bits, and one that matters little gives them away. What each layer costs at each
    width is measured or told by its curvature; an integer programme finds the widths that together cost least and keep
    to the budget. What it finds is compared with the same bits for all, on the samples that choices are made on, and
    given up where equal bits move the network's answers less. The weights are then rounded as by `quantize.linear`. The
    plan has the curve of what other budgets would cost.

    A budget of time chooses between floats and 8-bit integers, from the time that each layer takes in the float file
    and in the file with all layers on integers, on the machine that runs the job; the verdict has the measured time.
    """

    title: ClassVar[str] = "Mixed precision"
    family: ClassVar[Family] = "quantize"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    example: ClassVar[dict[str, object]] = {"method": "quantize.mixed", "budget": {"average_bits": 4}}
    works_on: ClassVar[WorksOn] = "network"
    encodes: ClassVar[EncodingKind] = LinearQuantization.encodes
    takes: ClassVar[frozenset[EncodingKind]] = LinearQuantization.takes

    method: Literal["quantize.mixed"] = "quantize.mixed"
    budget: Budget = Field(Budget(average_bits=4), description="What the result may take.")
    bits: tuple[Width, ...] = Field(
        (2, 3, 4, 5, 6, 8),
        min_length=1,
        description="Numbers of bits that a layer can have; a budget of time has 8 alone.",
    )
    allow_float: bool = Field(True, description="Whether a layer may stay float where the budget has room for it.")
    sensitivity: Literal["sqnr", "measured", "fisher", "hessian"] = Field(
        "sqnr",
        description="What a layer costs at a width. sqnr: the noise of the outputs when it alone is rounded. measured: "
        "how far the answers of the network move then, in the unit of its loss. fisher: half of the squared rounding "
        "errors, each times the Fisher information of its weight. hessian: half of the squared rounding errors times "
        "the mean curvature of the layer (HAWQ-V2, arXiv 1911.03852). None needs labels. The last two take one pass "
        "with gradients in place of one without for each layer and width. For a budget of time, measured is the rise "
        "of the loss, and the last two are as sqnr.",
    )
    samples: int = Field(128, ge=1, le=10_000, description="Samples on which layers are judged, in samples.")
    grid: SharedGrid = Field(SharedGrid(), description="What the grids of all layers have in common.")
    activations: ActivationGrid | None = Field(
        None, description="Grid of the activations; null: they stay float. A budget of time has 8 bits by itself."
    )
    calibration: Calibration = Field(Calibration(), description="How ranges of activations are chosen.")
    rounding: Rounding = Field(Rounding(), description="How weights are rounded to their grid.")
    bias_correction: bool = Field(True, description="As for `quantize.linear`.")
    keep_float: tuple[str, ...] = Field((), description="Names of layers that stay float.")

    @model_validator(mode="after")
    def _check_reach(self) -> Self:
        average = self.budget.average_bits
        if average is not None and average < min(self.bits):
            raise ValueError(f"an average of {average:g} bits is below the least of `bits`, {min(self.bits)}")
        if len(set(self.bits)) != len(self.bits):
            raise ValueError("bits has a number twice")
        return self

    def calibration_samples(self) -> int:
        """Those of what is measured, of the ranges and of the rounding."""
        ranges = self.calibration.samples if self.activations is not None or self.budget.of_time else 0
        return max(self.samples, ranges, self.rounding.calibration_samples())

    def linear(self, bits: dict[str, int], floats: tuple[str, ...]) -> LinearQuantization:
        """The step that does what was chosen; `bits` by name of a layer, `floats` are the layers left out."""
        usual = max(set(bits.values()), key=list(bits.values()).count) if bits else 8
        return LinearQuantization(
            weights=self.grid.at(usual),
            activations=ActivationGrid() if self.budget.of_time and self.activations is None else self.activations,
            calibration=self.calibration,
            rounding=self.rounding,
            bias_correction=self.bias_correction,
            layers={name: LayerGrid(weights=self.grid.at(each)) for name, each in bits.items() if each != usual},
            keep_float=floats,
        )

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  the same for all
        """From the least to what the budget says of the mean, or to floats where it says nothing of bits."""
        least, average = float(8 if self.budget.of_time else min(self.bits)), self.budget.average_bits
        most = FLOAT_BITS if self.allow_float or self.budget.of_time else max(self.bits)
        return least, packed(most if average is None else average)[1]

    def requires(self, description: ModelDescription) -> Capability:
        """As `quantize.linear`; and the smallest weights that there are must fit a budget of bytes."""
        found = LinearQuantization(keep_float=self.keep_float).requires(description)
        limit = self.budget.bytes
        if not found.ok or limit is None:
            return found
        weights = sum(math.prod(each.weight_shape) for each in description.layers if each.name in set(found.layers))
        least = weights * min(self.bits) // 8 + (description.parameters - weights) * FLOAT_BYTES
        if least > limit:
            why = (
                f"At {min(self.bits)} bits the weights of this model take {least:,} bytes without their scales, of "
                f"which {(description.parameters - weights) * FLOAT_BYTES:,} stay float; the budget is {limit:,}."
            )
            return Capability(ok=False, why=why)
        return found
