"""Models that a job needs besides its own: teachers and students."""

from typing import Any

import pytest
from sqlalchemy import update

from core.database.session import transaction
from core.database.tables import ModelRow
from core.description import SplitDescription, TensorDescription
from core.errors import ModelpressError
from core.resources.job import JobCreate
from core.services import attempts, jobs, models, sweeps
from core.services.files import claimed_files
from tests.conftest import make_tenant
from tests.core.services.makers import (
    ask,
    described_dataset,
    described_model,
    layer,
    make_dataset,
    make_model,
)

HUNDRED = (TensorDescription(name="answers", dtype="float32", shape=("n", 100)),)


def distil(model: str, dataset: str | None, **step: Any) -> JobCreate:
    return ask(model, dataset, recipe={"steps": [{"method": "distill.logits", **step}]})


def objections(tenant: str, asked: JobCreate) -> list[tuple[str, str, str]]:
    with transaction() as session:
        plan = jobs.plan(session, tenant, asked)
    return [(each.code, each.pointer, each.text) for each in plan.objections if each.severity == "blocks"]


def test_every_model_that_a_recipe_names_is_found_or_refused_where_it_is_named(tenant: str) -> None:
    model, dataset, teacher = make_model(tenant), make_dataset(tenant), make_model(tenant)
    foreign = make_model(make_tenant())
    assert objections(tenant, distil(model, dataset, teacher=["original", teacher], student=teacher)) == []
    for step, place in (
        ({"teacher": foreign}, "teacher"),
        ({"teacher": ["original", "mdl_0"]}, "teacher/1"),
        ({"student": foreign}, "student"),
    ):
        with pytest.raises(ModelpressError) as caught, transaction() as session:
            jobs.create(session, tenant, distil(model, dataset, **step))
        assert (caught.value.code, caught.value.pointer) == ("not_found", f"/recipe/steps/0/{place}")


def test_a_teacher_must_be_ready(tenant: str) -> None:
    asked = distil(make_model(tenant), make_dataset(tenant), teacher=make_model(tenant, ready=False))
    ((code, pointer, _),) = objections(tenant, asked)
    assert (code, pointer) == ("model_not_ready", "/recipe/steps/0/teacher")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outputs": HUNDRED}, ("n×100", "batch×10")),
        (
            {"inputs": (TensorDescription(name="x", dtype="float32", shape=("batch", 3, 32, 32)),)},
            ("batch×3×32×32", "batch×1×28×28"),
        ),
        ({"inputs": (TensorDescription(name="x", dtype="int64", shape=("batch", 1, 28, 28)),)}, ("int64", "float32")),
        ({"mode": "onnx_only", "why": "It has a Loop."}, ("It has a Loop.",)),
        (
            {
                "batch": "fixed",
                "inputs": (TensorDescription(name="x", dtype="float32", shape=(4, 1, 28, 28)),),
            },
            ("batch 4 only",),
        ),
    ],
    ids=["classes", "inputs", "dtype", "mode", "batch"],
)
def test_what_does_not_fit_is_refused_with_both_shapes(tenant: str, changes: dict[str, Any], told: tuple[str]) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    other = make_model(tenant, described_model(**changes))
    for step in ({"teacher": other}, {"student": other}, {"method": "distill.blocks", "teacher": other}):
        ((code, pointer, text),) = objections(tenant, distil(model, dataset, **step))
        assert (code, pointer) == ("method_not_applicable", "/recipe/steps/0")
        assert all(part in text for part in (*told, other))


def test_a_model_with_other_names_for_the_same_shapes_fits(tenant: str) -> None:
    renamed = described_model(
        inputs=(TensorDescription(name="pixels", dtype="float16", shape=("n", 1, "h", "w")),),
        outputs=(TensorDescription(name="scores", dtype="float16", shape=("n", 10)),),
    )
    asked = distil(make_model(tenant), make_dataset(tenant), teacher=make_model(tenant, renamed))
    assert objections(tenant, asked) == []


def test_steps_after_another_model_are_planned_for_it(tenant: str) -> None:
    layers = (layer("first", "linear", (10, 784)),)
    student = make_model(tenant, described_model(layers=layers))
    steps = [{"method": "distill.logits", "student": student}, {"method": "quantize.linear", "keep_float": ["fc1"]}]
    asked = ask(make_model(tenant), make_dataset(tenant), recipe={"steps": steps})
    with transaction() as session:
        plan = jobs.plan(session, tenant, asked)
    assert plan.plan[1].layers == ("first",)
    assert [each.pointer for each in plan.objections if each.severity == "blocks"] == ["/recipe/steps/1"]


def test_what_earlier_steps_made_is_not_thrown_away(tenant: str) -> None:
    steps = [{"method": "distill.logits"}, {"method": "distill.logits", "student": {"width": 0.5}}]
    asked = ask(make_model(tenant), make_dataset(tenant), recipe={"steps": steps})
    ((code, pointer, text),) = objections(tenant, asked)
    assert (code, pointer) == ("method_not_applicable", "/recipe/steps/1")
    assert "in the place of" in text


def test_training_needs_data_and_a_comparison_labels(tenant: str) -> None:
    model = make_model(tenant)
    assert [each[:2] for each in objections(tenant, distil(model, None))] == [("missing_data", "/dataset")]
    bare = make_dataset(tenant, described_dataset(splits={"train": SplitDescription(samples=9, labelled=False)}))
    assert objections(tenant, distil(model, bare)) == []
    assert [each[:2] for each in objections(tenant, distil(model, bare, compare=True))] == [
        ("missing_data", "/dataset")
    ]


def test_a_teacher_is_not_deleted_while_a_job_needs_it(tenant: str) -> None:
    teacher = make_model(tenant)
    with transaction() as session:
        job = jobs.create(session, tenant, distil(make_model(tenant), make_dataset(tenant), teacher=teacher))
    with pytest.raises(ModelpressError, match="not finished"), transaction() as session:
        models.delete(session, tenant, teacher)
    with transaction() as session:
        jobs.cancel(session, tenant, job.id)
    with transaction() as session:
        models.delete(session, tenant, teacher)
    # The job still says what it was asked for, and cannot be asked for again.
    with transaction() as session:
        assert jobs.get(session, tenant, job.id).recipe.steps[0].references() == {"teacher": teacher}
    with pytest.raises(ModelpressError) as caught, transaction() as session:
        jobs.retry(session, tenant, job.id)
    assert caught.value.pointer == "/recipe/steps/0/teacher"


def test_a_teacher_is_not_inspected_again_while_a_job_needs_it(tenant: str) -> None:
    teacher, idle = make_model(tenant), make_model(tenant)
    with transaction() as session:
        jobs.create(session, tenant, distil(make_model(tenant), make_dataset(tenant), teacher=teacher))
        session.execute(update(ModelRow).values(inspector_version=0))
    with transaction() as session:
        sweeps._inspect_again(session, ModelRow)
    with transaction() as session:
        assert session.get_one(ModelRow, idle).state == "inspecting"
        assert session.get_one(ModelRow, teacher).state == "ready"


def test_a_worker_gets_the_files_of_every_model_once(tenant: str) -> None:
    model, teacher, student = make_model(tenant), make_model(tenant), make_model(tenant)
    asked = distil(model, make_dataset(tenant), teacher=["original", teacher, student], student=student)
    with transaction() as session:
        jobs.create(session, tenant, asked)
    with transaction() as session:
        claim = attempts.claim(session, "worker")
        files = claimed_files(session.get_one(ModelRow, teacher).files)
    assert claim is not None
    assert set(claim.others) == {teacher, student}
    assert claim.others[teacher] == files
