"""Steps that cannot encode what earlier ones have left are told before the first of them runs."""

from typing import ClassVar, Literal

import pytest

from core.description import ModelDescription
from core.specs.base import Capability, Family, Needs, Spec, WorksOn
from core.specs.composition import EncodingKind
from core.specs.linear import LinearQuantization
from core.specs.order import find_clash
from tests.core.services.makers import described_model

MODEL = described_model()


class Encoder(Spec):
    """A step that encodes some layers in some way."""

    title: ClassVar[str] = "Encoder"
    family: ClassVar[Family] = "quantize"
    needs: ClassVar[Needs] = Needs(data=False, labels=False, training=False)
    example: ClassVar[dict[str, object]] = {}
    works_on: ClassVar[WorksOn] = "network"
    method: Literal["encoder"] = "encoder"
    layers: tuple[str, ...] = ("conv1", "fc1")

    def calibration_samples(self) -> int:
        return 0

    def requires(self, description: ModelDescription) -> Capability:
        del description
        return Capability(ok=True, layers=self.layers)


class Binary(Encoder):
    encodes: ClassVar[EncodingKind] = "binary"


class Codebook(Encoder):
    encodes: ClassVar[EncodingKind] = "codebook"


class Mask(Encoder):
    encodes: ClassVar[EncodingKind] = "masked"


class Student(Encoder):
    def replaces(self) -> bool:
        return True


@pytest.mark.parametrize(
    "steps",
    [
        (Mask(), Codebook(), Mask()),
        (Codebook(), Binary()),
        (Encoder(), LinearQuantization()),
        (Binary(layers=("conv1",)), Codebook()),
        (Binary(layers=("conv1",)), LinearQuantization()),
        (Binary(), Student(), LinearQuantization()),
    ],
)
def test_what_can_follow(steps: tuple[Spec, ...]) -> None:
    assert find_clash(steps, MODEL, {}) is None


@pytest.mark.parametrize(
    ("steps", "position", "words"),
    [
        ((Binary(), Codebook()), 1, "one bit"),
        ((Mask(), Binary(), Encoder(), Codebook()), 3, "one bit"),
        ((LinearQuantization(), LinearQuantization()), 1, "affine_integer"),
        ((Binary(layers=("conv1",)), Codebook(layers=("conv1",))), 1, "one bit"),
    ],
)
def test_what_cannot(steps: tuple[Spec, ...], position: int, words: str) -> None:
    found = find_clash(steps, MODEL, {})
    assert found is not None
    assert found[0] == position
    assert words in found[1]
