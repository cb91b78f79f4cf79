import pytest
from pydantic import ValidationError

from api.dashboard import forms
from core.specs.distill import LogitDistillation, Thinning
from core.specs.linear import ActivationGrid, LinearQuantization
from core.specs.mask_pruning import WeightPruning
from core.specs.methods import METHODS, method_name
from core.specs.recipe import Constraints, Target

SCHEMA = LinearQuantization.model_json_schema()
STEP = "recipe.steps.0"


def shown(**texts: str) -> dict[str, forms.FormField]:
    fields = forms.fields(SCHEMA, STEP, texts={f"{STEP}.{name}": text for name, text in texts.items()}, errors={})
    return {field.name.removeprefix(f"{STEP}."): field for field in fields}


def test_every_setting_of_every_method_has_a_control() -> None:
    for method in METHODS:
        names = {leaf.path[0] for leaf in forms.leaves(method.model_json_schema())}
        assert names == set(method.model_fields), method_name(method)


def test_controls_show_defaults_bounds_and_choices() -> None:
    fields = shown()
    assert fields["calibration.samples"].value == "512"
    assert "At least 1, at most 100,000" in fields["calibration.samples"].hint
    assert fields["calibration.method"].choices == ("minmax", "percentile", "mse", "entropy")
    assert fields["weights.bits"].kind == "integer"
    assert fields["keep_float"].kind == "list"


def test_what_was_typed_stays() -> None:
    assert shown(saturation="seven_bit")["saturation"].value == "seven_bit"


def test_the_defaults_read_back_as_the_default_step() -> None:
    texts = {field.name: field.value for field in forms.fields(SCHEMA, STEP, texts={}, errors={})}
    assert LinearQuantization.model_validate(forms.read(SCHEMA, STEP, texts)) == LinearQuantization()


def test_a_request_survives_the_form() -> None:
    step = LinearQuantization.model_validate(
        {"calibration": {"method": "entropy", "samples": 64}, "keep_float": ["conv1", "fc2"], "saturation": "unsigned"}
        | {"activations": None, "layers": {"one.conv1": {"weights": {"bits": 4, "per": "group"}, "activations": False}}}
    )
    texts = forms.texts_of(step.model_dump(mode="json"), STEP, whole=forms.open_names(SCHEMA, STEP))
    assert LinearQuantization.model_validate(forms.read(SCHEMA, STEP, texts)) == step


def test_what_is_emptied_is_none_where_that_is_no_default() -> None:
    emptied = forms.read(SCHEMA, STEP, {f"{STEP}.activations": "", f"{STEP}.activations.bits": "16"})
    assert emptied == {"activations": None}
    kept = forms.read(SCHEMA, STEP, {f"{STEP}.activations": "given", f"{STEP}.activations.bits": "16"})
    assert LinearQuantization.model_validate(kept).activations == ActivationGrid(bits=16)


def test_budgets_and_rounds_of_pruning_are_entered_and_survive_the_form() -> None:
    schema = WeightPruning.model_json_schema()
    texts = {field.name: field.value for field in forms.fields(schema, STEP, texts={}, errors={})}
    assert texts[f"{STEP}.keep.weights"] == "0.5"
    shapes = [field for field in forms.fields(schema, STEP, texts={}, errors={}) if field.name.endswith("shape")]
    assert [(field.value, field.choices) for field in shapes] == [("", ("", "linear", "cubic"))]
    assert WeightPruning.model_validate(forms.read(schema, STEP, texts)) == WeightPruning()
    typed = {"keep.weights": "", "keep.bytes": "5000", "schedule.rounds": "3", "schedule.shape": "linear"}
    typed["schedule.train"] = '{"method": "finetune", "epochs": 2}'
    asked = texts | {f"{STEP}.{name}": text for name, text in typed.items()}
    step = WeightPruning.model_validate(forms.read(schema, STEP, asked))
    train = {"method": "finetune", "epochs": 2}
    schedule = {"rounds": 3, "shape": "linear", "train": train}
    assert step == WeightPruning.model_validate({"keep": {"bytes": 5000}, "schedule": schedule})
    again = forms.texts_of(step.model_dump(mode="json"), STEP, whole=forms.open_names(schema, STEP))
    assert WeightPruning.model_validate(forms.read(schema, STEP, again)) == step


def test_what_is_no_json_is_left_to_the_schema() -> None:
    with pytest.raises(ValidationError, match="layers"):
        LinearQuantization.model_validate(forms.read(SCHEMA, STEP, {f"{STEP}.layers": "{conv1"}))


def test_lists_of_numbers_and_empty_options() -> None:
    read = forms.read(Target.model_json_schema(), "target", {"target.batch_sizes": "1, 8,32", "target.threads": " "})
    assert read == {"batch_sizes": [1, 8, 32]}
    assert forms.read(Constraints.model_json_schema(), "constraints", {"constraints.max_drop": "0.01"}) == {
        "max_drop": 0.01
    }


@pytest.mark.parametrize("text", ["many", "nan", "inf", "1.5"])
def test_what_is_no_number_is_left_to_the_schema(text: str) -> None:
    read = forms.read(SCHEMA, STEP, {f"{STEP}.calibration.samples": text})
    with pytest.raises(ValidationError):
        LinearQuantization.model_validate(read)


def test_a_group_of_one_field_gives_it_its_name() -> None:
    grouped = forms.groups(tuple(shown().values()))
    headings = {heading: [field.label for field in members] for heading, members in grouped}
    assert headings["Calibration"] == ["Method", "Samples", "Percentile"]
    assert headings["Weights"] == ["Bits", "Symmetric", "Scale", "Per", "Group size"]


def test_no_field_repeats_the_heading_above_it() -> None:
    for spec in (LogitDistillation, LinearQuantization):
        for heading, members in forms.groups(forms.fields(spec.model_json_schema(), "s", texts={}, errors={})):
            assert not heading or heading not in [field.label for field in members]
    headings = dict(forms.groups(forms.fields(LogitDistillation.model_json_schema(), "s", texts={}, errors={})))
    assert [field.label for field in headings["Student"]] == ["Id", "Width", "Depth"]


def test_what_is_a_text_or_an_object_has_controls_for_both() -> None:
    schema = LogitDistillation.model_json_schema()

    def asked(**texts: str) -> LogitDistillation:
        return LogitDistillation.model_validate(
            forms.read(schema, "s", {f"s.{key}": text for key, text in texts.items()})
        )

    assert asked().student is None
    assert asked(student="mdl_1", teacher="original, mdl_2").references() == {"student": "mdl_1", "teacher/1": "mdl_2"}
    thin = asked(**{"student.width": "0.5"})
    assert thin.student == Thinning(width=0.5)
    texts = forms.texts_of(thin.model_dump(mode="json"), "s")
    assert LogitDistillation.model_validate(forms.read(schema, "s", texts)) == thin
    with pytest.raises(ValidationError):
        asked(**{"student": "mdl_1", "student.depth": "0.5"})
