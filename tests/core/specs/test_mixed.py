"""What may be asked of `quantize.mixed`, and what is refused before anything runs."""

import pytest
from pydantic import ValidationError

from core.specs.linear import ActivationGrid, LinearQuantization
from core.specs.mixed import Budget, MixedQuantization, SharedGrid
from tests.core.services.makers import described_model

MODEL = described_model()
WEIGHTS = {layer.name: layer for layer in MODEL.layers}


@pytest.mark.parametrize("fields", [{}, {"bytes": 10, "average_bits": 3}, {"speedup": 0}, {"average_bits": 1.5}])
def test_a_budget_is_exactly_one_positive_number(fields) -> None:
    with pytest.raises(ValidationError):
        Budget(**fields)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"bits": (4, 8), "budget": {"average_bits": 3}}, "below the least"),
        ({"bits": (4, 4)}, "twice"),
        ({"bits": ()}, "at least 1"),
        ({"bits": (1,)}, "greater than or equal to 2"),
        ({"grid": {"group_size": 32}}, "per: group"),
    ],
)
def test_what_cannot_be_is_refused_in_words(fields, match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        MixedQuantization(**fields)


def test_a_budget_below_the_fewest_bits_is_refused_before_the_run_with_both_numbers() -> None:
    least = MixedQuantization(budget=Budget(bytes=1)).requires(MODEL)
    assert not least.ok
    assert "the budget is 1" in (least.why or "")
    floats = 4 * MODEL.parameters
    assert MixedQuantization(budget=Budget(bytes=floats)).requires(MODEL) == LinearQuantization().requires(MODEL)
    # Eight bits for all need about a quarter of the bytes of floats, two bits a sixteenth.
    tight = Budget(bytes=floats // 6)
    assert MixedQuantization(budget=tight).requires(MODEL).ok
    assert not MixedQuantization(budget=tight, bits=(8,)).requires(MODEL).ok
    assert not MixedQuantization(budget=tight, keep_float=tuple(WEIGHTS)[-2:]).requires(MODEL).ok
    unknown = MixedQuantization(keep_float=("nobody",)).requires(MODEL)
    assert "nobody" in (unknown.why or "")


def test_the_step_that_is_taken_has_the_bits_of_each_layer() -> None:
    spec = MixedQuantization(grid=SharedGrid(symmetric=False, per="group", group_size=16))
    step = spec.linear({"a": 4, "b": 4, "c": 3}, ("d",))
    assert [step.weights_of(layer).bits for layer in ("a", "b", "c")] == [4, 4, 3]
    assert step.weights_of("c").group_size == 16
    assert not step.weights_of("c").symmetric
    assert step.keep_float == ("d",)
    assert step.activations is None
    timed = MixedQuantization(budget=Budget(speedup=2)).linear({"a": 8}, ())
    assert timed.activations == ActivationGrid()


def test_samples_and_bits_that_are_counted_with() -> None:
    layer = MODEL.layers[0]
    assert MixedQuantization(samples=50).calibration_samples() == 50
    assert MixedQuantization(samples=50, activations=ActivationGrid()).calibration_samples() == 512
    assert MixedQuantization(budget=Budget(speedup=2)).weight_bits(layer)[0] == 8
    low, high = MixedQuantization(budget=Budget(average_bits=3)).weight_bits(layer)
    assert low == 2
    assert 3 < high < 3.5
