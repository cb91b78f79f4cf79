"""What every spec has in common: a frozen pydantic class that says what it needs and whether a model suits it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from core.description import LayerDescription, ModelDescription
from core.specs.weight_bits import Bits

if TYPE_CHECKING:
    from core.specs.composition import EncodingKind

Family = Literal["quantize", "prune", "distill", "search", "train"]
# A method that works on files takes models in mode `onnx_only` too; after it no step can have the network.
WorksOn = Literal["network", "file"]


class Asked(BaseModel):
    """Base of everything that a user asks for: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OneOf(Asked):
    """Several optional numbers of which exactly one is given."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        names = list(type(self).model_fields)
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            named = ", ".join(given) or "none"
            raise ValueError(f"give exactly one of {', '.join(names[:-1])} and {names[-1]}; given: {named}")
        return self

    @property
    def measure(self) -> str:
        """The name of the one that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def amount(self) -> float:
        """The one that is given."""
        return float(getattr(self, self.measure))


class Capability(Asked):
    """Whether a method fits a model, on which layers, and if not, why not."""

    ok: bool
    layers: tuple[str, ...] = ()
    why: str | None = None


class Needs(Asked):
    """What a method must be given besides the model.

    With `synthetic` it can do without data: inputs are then drawn from the model's shapes and ranges.
    """

    data: bool
    labels: bool
    training: bool
    synthetic: bool = False

    def words(self) -> str:
        """As a sentence ends: `data (or inputs that are drawn), labels`."""
        data = "data (or inputs that are drawn)" if self.synthetic else "data"
        asked = ((self.data, data), (self.labels, "labels"), (self.training, "training"))
        return ", ".join(word for wanted, word in asked if wanted) or "nothing but the model"


class Spec(Asked, ABC):
    """One step of a recipe. `method` is a literal field of each final subclass."""

    title: ClassVar[str]
    family: ClassVar[Family]
    needs: ClassVar[Needs]
    example: ClassVar[dict[str, object]]
    works_on: ClassVar[WorksOn]
    # The encoding that the step puts on weights, and those that it can put it on; None: whatever the table allows.
    encodes: ClassVar["EncodingKind | None"] = None
    takes: ClassVar["frozenset[EncodingKind] | None"] = None

    method: str

    def model_post_init(self, _context: object, /) -> None:
        """Count the method as said, so that it is not left out where only what was said is sent."""
        self.model_fields_set.add("method")

    @abstractmethod
    def calibration_samples(self) -> int:
        """How many calibration samples the step runs at most; 0 where it needs no data."""

    @abstractmethod
    def requires(self, description: ModelDescription) -> Capability:
        """Whether this step can be applied to the described model, by plain Python without torch."""

    def needed(self) -> Needs:
        """What the step, as it is asked for, must be given."""
        return self.needs

    def needs_labels(self) -> bool:
        """Whether the step, as it is asked for, needs labels."""
        return self.needed().labels

    def replaces(self) -> bool:
        """Whether the step puts another network in the place of the one it is given, whose changes are then lost."""
        return False

    def references(self) -> dict[str, str]:
        """The ids of other models that the step needs, by their place in it, such as `teacher` or `teacher/1`."""
        return {}

    def weight_bits(self, layer: LayerDescription) -> Bits | None:  # noqa: ARG002  what most steps do not need
        """Bits that a weight of this layer takes after the step, with its scales; None where the step changes none."""
        return None

    def suits(self, description: ModelDescription, others: Mapping[str, ModelDescription]) -> Capability:
        """As `requires`, with the descriptions of the other models that the step needs, by id."""
        del others
        return self.requires(description)

    def leaves(self, description: ModelDescription, others: Mapping[str, ModelDescription]) -> ModelDescription:
        """What is described after the step: the same, unless the step puts another model in the place of this one."""
        del others
        return description
