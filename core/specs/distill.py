"""The specs of the family `distill`: a network, the student, learns from teachers that answer better."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from core.description import ModelDescription
from core.specs.base import Asked, Capability, Family, Needs, Spec, WorksOn
from core.specs.interfaces import difference
from core.specs.train import Training, trainable

MOST_TEACHERS = 4
ORIGINAL = "original"

ModelId = Annotated[str, Field(pattern=r"^mdl_[0-9a-z]+$", max_length=100)]
Teacher = Annotated[str, Field(pattern=r"^(original|mdl_[0-9a-z]+)$", max_length=100)]


class Thinning(Asked):
    """A student that is cut out of the first teacher and begins with its weights."""

    width: float = Field(1.0, gt=0, le=1, description="Share of the channels, or of heads and hidden units, that stay.")
    depth: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the residual blocks that stay: of several at least one, and at least one goes.",
    )

    @model_validator(mode="after")
    def _check_cut(self) -> "Thinning":
        if self.width == self.depth == 1:
            raise ValueError("a thin student has a width or a depth below 1")
        return self


Student = ModelId | Thinning | None
TEACHER = (
    "Who is learned from: `original`, the id of another model that takes the same inputs and gives outputs of the "
)
STUDENT = (
    "Who learns: empty for the network as it stands in the recipe, the id of another model, or width and depth of a "
    "smaller network that is cut out of the teacher."
)
COMPARE = "Train the same student once more, equally but without the teacher, and say whether the teacher helped."


class Distillation(Training, Spec):
    """What all methods of the family have in common: who teaches, who learns, and how it is trained."""

    family: ClassVar[Family] = "distill"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=True)
    works_on: ClassVar[WorksOn] = "network"

    student: Student = Field(None, description=STUDENT)
    compare: bool = Field(False, description=COMPARE)

    def teachers(self) -> tuple[str, ...]:
        """Who teaches: `original` or ids of models."""
        return (ORIGINAL,)

    def references(self) -> dict[str, str]:
        """The ids of teachers and student, by their place in the spec."""
        named = getattr(self, "teacher", ORIGINAL)
        several = isinstance(named, tuple)
        places = {(f"teacher/{place}" if several else "teacher"): name for place, name in enumerate(self.teachers())}
        if isinstance(self.student, str):
            places["student"] = self.student
        return {place: name for place, name in places.items() if name != ORIGINAL}

    def needs_labels(self) -> bool:
        """To compare: alone, a student learns from nothing else."""
        return self.compare

    def replaces(self) -> bool:
        """Unless the network as it stands is the student."""
        return self.student is not None

    def calibration_samples(self) -> int:
        """None: it is trained on the train split."""
        return 0

    def requires(self, description: ModelDescription) -> Capability:
        """A network whose weights can be trained."""
        return trainable(description)

    def suits(self, description: ModelDescription, others: Mapping[str, ModelDescription]) -> Capability:
        """Besides, teachers and student must take the same inputs and give outputs of the same shapes."""
        for name in self.references().values():
            role = "student" if name == self.student else "teacher"
            why = difference(description, others[name], f"The {role} {name}") if name in others else None
            if why is not None:
                return Capability(ok=False, why=why)
        return self.requires(self.leaves(description, others))

    def leaves(self, description: ModelDescription, others: Mapping[str, ModelDescription]) -> ModelDescription:
        """The student's, where it is another model."""
        return others.get(self.student, description) if isinstance(self.student, str) else description


class Answering(Distillation):
    """A distillation that several teachers can share."""

    teacher: Teacher | Annotated[tuple[Teacher, ...], Field(min_length=1, max_length=MOST_TEACHERS)] = Field(
        ORIGINAL,
        description=f"{TEACHER}same shapes, or a list of up to {MOST_TEACHERS} of these, whose probabilities are "
        "averaged.",
    )

    @field_validator("teacher", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        """A form sends several names as one text."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) and "," in value else value

    @field_validator("teacher")
    @classmethod
    def _check_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("a teacher is named twice")
        return value

    def teachers(self) -> tuple[str, ...]:
        """As asked for."""
        return self.teacher if isinstance(self.teacher, tuple) else (self.teacher,)


class LogitDistillation(Answering):
    """The student learns to answer as the teachers do (Hinton et al. 2015, arXiv 1503.02531).

    hinton compares softened probabilities. dkd weighs the classes that are not the target by themselves (arXiv
    2203.08679); where there is no label the teachers' first choice is the target. dist asks only for correlation with
    the teachers, which suits teachers that are much better than the student (arXiv 2205.10536). Where each class stands
    for itself, probabilities are compared class by class; numbers that are no classes are compared by their squared
    difference. Labels are used where there are some, and the loss is label_weight · task loss + teacher_weight ·
    distance to the teachers. Without labels the second part is all there is.
    """

    title: ClassVar[str] = "Distillation of answers"
    example: ClassVar[dict[str, object]] = {"method": "distill.logits", "epochs": 3, "teacher": "original"}

    method: Literal["distill.logits"] = "distill.logits"
    loss: Literal["hinton", "dkd", "dist"] = Field("hinton", description="How answers are compared; for classes only.")
    temperature: float = Field(4.0, gt=0, le=100, description="By which logits are divided before they are compared.")
    beta: float = Field(8.0, ge=0, le=100, description="Weight of the classes that are not the target; for dkd only.")
    label_weight: float | None = Field(
        None, ge=0, le=1000, description="Weight of the task loss; left out: 0.1 for hinton, 1 for dkd and dist."
    )
    teacher_weight: float | None = Field(
        None, gt=0, le=1000, description="Weight of the teachers; left out: 0.9 for hinton, 1 for dkd, 2 for dist."
    )


class FeatureDistillation(Distillation):
    """The student's inner values learn from the teacher's (FitNets, arXiv 1412.6550, and what came after it).

    hint compares the values themselves, through an adapter where the numbers of channels differ, which is trained along
    and dropped at the end. attention compares where the values are large (arXiv 1612.03928). relational compares
    distances and angles between the samples of a batch (arXiv 1904.05068). The answers are compared as well, with
    answer_weight, and labels are used where there are some.
    """

    title: ClassVar[str] = "Distillation of inner values"
    example: ClassVar[dict[str, object]] = {"method": "distill.features", "epochs": 3, "loss": "attention"}

    method: Literal["distill.features"] = "distill.features"
    teacher: Teacher = Field(ORIGINAL, description=f"{TEACHER}same shapes.")
    loss: Literal["hint", "attention", "relational"] = Field("hint", description="How inner values are compared.")
    pairs: tuple[Annotated[str, Field(pattern=r"^[^=]+=[^=]+$", max_length=500)], ...] = Field(
        (),
        max_length=32,
        description="Layers whose outputs are compared, as `student=teacher`; empty: paired by depth and resolution.",
    )
    feature_weight: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Weight of the inner values, all pairs together; left out: 10 for hint and attention, 1 for "
        "relational.",
    )
    answer_weight: float = Field(
        1.0, ge=0, le=1000, description="Weight of the answers, compared as by Hinton at temperature 4."
    )
    label_weight: float = Field(1.0, ge=0, le=1000, description="Weight of the task loss, where there are labels.")

    def teachers(self) -> tuple[str, ...]:
        """As asked for."""
        return (self.teacher,)

    def suits(self, description: ModelDescription, others: Mapping[str, ModelDescription]) -> Capability:
        """Besides, the layers that `pairs` names must exist."""
        found = super().suits(description, others)
        if not found.ok or isinstance(self.student, Thinning):
            return found
        sides = self.leaves(description, others), others.get(self.teacher, description)
        for side, names in zip(sides, zip(*(pair.split("=") for pair in self.pairs), strict=True), strict=False):
            if unknown := sorted(set(names) - {layer.name for layer in side.layers}):
                return Capability(ok=False, why=f"pairs names no layer of the network: {', '.join(unknown)}.")
        return found


class BlockDistillation(Spec):
    """Block by block, what earlier steps have changed learns to give what the teacher gives (arXiv 2102.05426).

    A block lies between two values through which everything passes, such as a residual block. Each learns from what the
    blocks before it give by then, against what the teacher gives there, so a few hundred samples without labels are
    enough, and only the values of one block are kept in memory. A fifth of the samples judges: a block that did not
    become better stays as it was, and so does one that shares weights with another.
    """

    title: ClassVar[str] = "Distillation of blocks"
    family: ClassVar[Family] = "distill"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=True)
    example: ClassVar[dict[str, object]] = {"method": "distill.blocks", "samples": 500}
    works_on: ClassVar[WorksOn] = "network"

    method: Literal["distill.blocks"] = "distill.blocks"
    teacher: Teacher = Field(
        ORIGINAL,
        description=f"{TEACHER}same shapes. Blocks lie between values that have the same name and shape in both; where "
        "there are none, the whole network is one.",
    )
    samples: int = Field(512, ge=8, le=100_000, description="Calibration samples that are used, in samples.")
    epochs: float = Field(20.0, gt=0, le=10_000, description="Passes of each block over the samples.")
    batch_size: int = Field(32, ge=1, le=8192, description="Samples of one update.")
    lr: Annotated[float, Field(gt=0, le=10)] | Literal["auto"] = Field(
        "auto", description="Highest learning rate; auto: the best of five that are tried on each block."
    )

    def calibration_samples(self) -> int:
        """As asked for."""
        return self.samples

    def references(self) -> dict[str, str]:
        """The id of the teacher, where it is another model."""
        return {} if self.teacher == ORIGINAL else {"teacher": self.teacher}

    def requires(self, description: ModelDescription) -> Capability:
        """A network whose weights can be trained."""
        return trainable(description)

    def suits(self, description: ModelDescription, others: Mapping[str, ModelDescription]) -> Capability:
        """Besides, the teacher must take the same inputs and give outputs of the same shapes."""
        found = others.get(self.teacher)
        why = None if found is None else difference(description, found, f"The teacher {self.teacher}")
        return self.requires(description) if why is None else Capability(ok=False, why=why)


DISTILL: tuple[type[Spec], ...] = (LogitDistillation, FeatureDistillation, BlockDistillation)
