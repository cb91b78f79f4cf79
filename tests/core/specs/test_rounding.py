"""What a recipe may ask of rounding."""

import pytest
from pydantic import ValidationError

from core.specs.linear import LinearQuantization
from core.specs.rounding import Rounding


def test_only_what_looks_at_inputs_needs_samples() -> None:
    assert Rounding(samples=64).calibration_samples() == 0
    assert Rounding(method="gptq", samples=64).calibration_samples() == 64
    alone = LinearQuantization(activations=None, rounding=Rounding(method="adaround", samples=96))
    assert alone.calibration_samples() == 96
    assert LinearQuantization(activations=None).calibration_samples() == 0


@pytest.mark.parametrize("asked", [{"damping": 0.0}, {"steps": 1}, {"sweeps": 21}, {"samples": 0}, {"method": "best"}])
def test_values_out_of_bounds_are_refused(asked: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rounding.model_validate(asked)
