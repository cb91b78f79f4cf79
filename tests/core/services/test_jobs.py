from typing import Any

import pytest
from sqlalchemy import select

from core.database.session import transaction
from core.database.tables import JobRow, OutboxRow, WebhookRow
from core.description import SplitDescription, TensorDescription
from core.errors import ModelpressError
from core.resources.model import Rename
from core.services import jobs, models, stream, system
from core.services.system import WorkerBeat
from core.states import JobState
from tests.core.services.makers import (
    ask,
    described_dataset,
    described_model,
    make_dataset,
    make_job,
    make_model,
)


def test_a_new_job_is_queued_with_its_steps_and_one_message(tenant: str) -> None:
    job = make_job(tenant, seed=7, constraints={"max_drop": 0.01})
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
        messages = session.scalars(select(OutboxRow.subject_id).where(OutboxRow.task == "run_job")).all()
        events = stream.after(session, tenant, job, 0)
    assert (shown.state, shown.seed, shown.queue_position) == ("queued", 7, 1)
    assert [step.name for step in shown.steps] == ["prepare", "quantize.linear", "export", "measure"]
    assert shown.constraints.max_drop == 0.01
    assert (shown.model_name, shown.dataset_name, shown.methods) == ("net", "mnist", ("quantize.linear",))
    assert messages == [job]
    assert [(event.seq, event.type, event.payload["state"]) for event in events] == [(1, "job.state", "queued")]


def test_waiting_jobs_know_their_place(tenant: str) -> None:
    made = [make_job(tenant) for _ in range(3)]
    with transaction() as session:
        places = {job.id: job.queue_position for job in jobs.list_(session, tenant).data}
    assert [places[job] for job in made] == [1, 2, 3]


def test_lists_filter_by_state_and_model(tenant: str) -> None:
    first, second = make_job(tenant), make_job(tenant)
    with transaction() as session:
        jobs.cancel(session, tenant, first)
        model = jobs.get(session, tenant, second).model
        assert [job.id for job in jobs.list_(session, tenant, state=JobState.QUEUED).data] == [second]
        assert [job.id for job in jobs.list_(session, tenant, model=model).data] == [second]


def test_a_waiting_job_is_cancelled_at_once_and_again_without_harm(tenant: str) -> None:
    job = make_job(tenant)
    with transaction() as session:
        assert jobs.cancel(session, tenant, job).state == "cancelled"
        shown = jobs.cancel(session, tenant, job)
    assert {step.state for step in shown.steps} == {"skipped"}
    assert shown.finished_at is not None


def test_a_retry_asks_for_the_same_and_is_linked(tenant: str) -> None:
    job = make_job(tenant, seed=3, metadata={"a": "b"})
    with transaction() as session:
        with pytest.raises(ModelpressError, match="only a finished job"):
            jobs.retry(session, tenant, job)
        old = jobs.cancel(session, tenant, job)
        new = jobs.retry(session, tenant, job)
    assert new.retry_of == old.id
    assert (new.recipe, new.seed, new.metadata, new.model) == (old.recipe, old.seed, old.metadata, old.model)


def test_name_and_metadata_change(tenant: str) -> None:
    job = make_job(tenant)
    with transaction() as session:
        changed = jobs.rename(session, tenant, job, Rename(name="better", metadata={"k": "v"}))
    assert (changed.name, changed.metadata) == ("better", {"k": "v"})


def objections(tenant: str, model: str, dataset: str | None, **changes: Any) -> list[tuple[str, str]]:
    """What the dry run objects to; it must be what `create` refuses."""
    asked = ask(model, dataset, **changes)
    with transaction() as session:
        plan = jobs.plan(session, tenant, asked)
    blocking = [entry for entry in plan.objections if entry.severity == "blocks"]
    assert plan.ok == (not blocking)
    if blocking:
        with pytest.raises(ModelpressError) as caught, transaction() as session:
            jobs.create(session, tenant, asked)
        assert (caught.value.code, caught.value.pointer) == (blocking[0].code, blocking[0].pointer)
    with transaction() as session:
        assert session.scalars(select(JobRow)).all() == []
    return [(entry.code, entry.pointer) for entry in blocking]


def test_a_fitting_job_has_no_objection_and_a_plan(tenant: str) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    assert objections(tenant, model, dataset) == []
    with transaction() as session:
        plan = jobs.plan(session, tenant, ask(model, dataset))
    assert plan.plan[1].layers == ("conv1", "fc1")
    for estimate in (plan.seconds, plan.memory_bytes, plan.bytes):
        assert 0 < estimate.low < estimate.high
    # The real int8 file of such a net has about a byte a parameter and some graph.
    assert 8790 < plan.bytes.low < 4 * 8790


def test_what_is_not_ready_blocks(tenant: str) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    raw_model, raw_dataset = make_model(tenant, ready=False), make_dataset(tenant, ready=False)
    assert objections(tenant, raw_model, dataset) == [("model_not_ready", "/model")]
    assert objections(tenant, model, raw_dataset) == [("dataset_not_ready", "/dataset")]
    with transaction() as session:
        models.delete(session, tenant, model)
    assert objections(tenant, model, dataset) == [("model_not_ready", "/model")]


def test_missing_data_blocks(tenant: str) -> None:
    model = make_model(tenant)
    assert objections(tenant, model, None, constraints={"max_drop": 0.1}) == [("missing_data", "/constraints/max_drop")]
    bare = make_dataset(tenant, described_dataset(splits={"train": SplitDescription(samples=9, labelled=True)}))
    assert objections(tenant, model, bare) == []
    assert objections(tenant, model, bare, constraints={"max_drop": 0.1}) == [("missing_data", "/constraints/max_drop")]


def test_a_runtime_that_no_worker_has_blocks(tenant: str) -> None:
    model, dataset, target = make_model(tenant), make_dataset(tenant), {"runtime": "openvino-cpu"}
    assert objections(tenant, model, dataset, target=target) == []  # no worker has told what it has
    for packages, found in ((["onnxruntime"], [("runtime_missing", "/target/runtime")]), (["openvino"], [])):
        facts = {system.RUNTIMES: dict.fromkeys(packages, "1.0")}
        with transaction() as session:
            beat = WorkerBeat(id="one", kind="compute", host="here", pid=7, sandbox="none", facts=facts)
            system.beat(session, beat)
        assert objections(tenant, model, dataset, target=target) == found
        assert objections(tenant, model, dataset, target={"runtime": "auto"}) == []


def test_a_job_without_data_is_warned_of_drawn_inputs(tenant: str) -> None:
    with transaction() as session:
        plan = jobs.plan(session, tenant, ask(make_model(tenant), None))
    assert plan.ok
    assert [(each.severity, each.pointer) for each in plan.objections] == [("advice", "/dataset")]


def test_texts_are_for_the_model_to_cut(tenant: str) -> None:
    dataset = make_dataset(tenant, described_dataset(("batch", "tokens")))
    assert objections(tenant, make_model(tenant), dataset) == []


def test_inputs_that_do_not_fit_block_with_a_hint_at_the_layout(tenant: str) -> None:
    model = make_model(tenant)
    for shape, hint in ((("batch", 28, 28, 1), "NHWC"), (("batch", 28, 28), "NHW"), (("batch", 32), "shape 32")):
        dataset = make_dataset(tenant, described_dataset(shape))
        assert objections(tenant, model, dataset) == [("invalid_data", "/dataset")]
        with transaction() as session:
            assert hint in jobs.plan(session, tenant, ask(model, dataset)).objections[0].text


def test_a_method_that_does_not_fit_blocks_and_is_mended(tenant: str) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    step = {"method": "quantize.linear", "keep_float": ["nowhere", "fc1", "never"]}
    recipe = {"steps": [step]}
    assert objections(tenant, model, dataset, recipe=recipe) == [("method_not_applicable", "/recipe/steps/0")]
    with transaction() as session:
        repair = jobs.plan(session, tenant, ask(model, dataset, recipe=recipe)).objections[0].repair
    assert repair == (
        {"op": "remove", "path": "/recipe/steps/0/keep_float/2"},
        {"op": "remove", "path": "/recipe/steps/0/keep_float/0"},
    )
    assert objections(tenant, model, dataset, recipe={"steps": [{**step, "keep_float": ["fc1"]}]}) == []


def test_a_fixed_batch_blocks_other_batch_sizes_and_is_mended(tenant: str) -> None:
    inputs = (TensorDescription(name="x", dtype="float32", shape=(1, 1, 28, 28)),)
    model = make_model(tenant, described_model(batch="fixed", batch_reason="A Reshape.", inputs=inputs))
    dataset = make_dataset(tenant)
    assert objections(tenant, model, dataset) == [("invalid_request", "/target/batch_sizes")]
    with transaction() as session:
        repair = jobs.plan(session, tenant, ask(model, dataset)).objections[0].repair
    assert repair is not None
    assert objections(tenant, model, dataset, target=repair[0]["value"]) == []


def test_a_foreign_or_unknown_ingredient_is_not_found(tenant: str) -> None:
    with pytest.raises(ModelpressError) as caught, transaction() as session:
        jobs.create(session, tenant, ask("mdl_none", None))
    assert (caught.value.code, caught.value.pointer) == ("not_found", "/model")


def test_a_job_may_have_an_endpoint_of_its_own(tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(make_model(tenant), make_dataset(tenant), webhook_url="http://127.0.0.1:9/hook")
    with pytest.raises(ModelpressError) as caught, transaction() as session:
        jobs.create(session, tenant, asked)
    assert (caught.value.code, caught.value.pointer) == ("invalid_webhook_url", "/webhook_url")
    allow(monkeypatch)
    with transaction() as session:
        job = jobs.create(session, tenant, asked)
        assert session.scalars(select(WebhookRow.job_id)).all() == [job.id]


def allow(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.settings import settings

    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["127.0.0.0/8"]')
    settings.cache_clear()


def test_a_file_that_is_no_network_is_led_to_the_method_for_files(tenant: str) -> None:
    described = described_model(mode="onnx_only", why="NonZero is not read.", parity=None)
    model, dataset = make_model(tenant, described), make_dataset(tenant)
    with transaction() as session:
        plan = jobs.plan(session, tenant, ask(model, dataset))
        assert not plan.ok
        assert "quantize.onnx" in plan.objections[0].text
        for mode in ("static", "dynamic"):
            planned = jobs.plan(session, tenant, ask(model, dataset, recipe=recipe_of("quantize.onnx", mode=mode)))
            assert planned.ok
            assert planned.plan[1].layers == ("conv1", "fc1")
            assert 0 < planned.bytes.low < planned.bytes.high
            assert 0 < planned.seconds.low < planned.seconds.high


def test_only_a_step_that_calibrates_asks_for_data(tenant: str) -> None:
    model = make_model(tenant)
    assert objections(tenant, model, None, recipe=recipe_of("quantize.onnx", mode="dynamic")) == []
    drawn = ask(model, None, recipe=recipe_of("quantize.onnx"))
    with transaction() as session:
        (advice,) = jobs.plan(session, tenant, drawn).objections
    assert (advice.severity, advice.code) == ("advice", "missing_data")
    rate = TensorDescription(name="rate", dtype="int64", shape=())
    inputs = (TensorDescription(name="x", dtype="float32", shape=("batch", 4)), rate)
    alone = make_model(tenant, described_model(inputs=inputs))
    assert ("missing_data", "/dataset") in objections(tenant, alone, None, recipe=recipe_of("quantize.onnx"))


def test_steps_in_an_order_that_cannot_be_block(tenant: str) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    for order in (("quantize.linear", "quantize.onnx"), ("quantize.onnx", "quantize.linear")):
        steps = {"steps": [{"method": method} for method in order]}
        assert objections(tenant, model, dataset, recipe=steps) == [("method_not_applicable", "/recipe/steps/1")]


def test_files_that_could_not_be_written_block(tenant: str) -> None:
    large = described_model().layers[1].model_copy(update={"parameters": 3_000_000_000})
    numbers = {"layers": (large,), "parameters": 3_000_000_000, "bytes_stripped": 12_000_000_000}
    dataset = make_dataset(tenant)
    model = make_model(tenant, described_model(**numbers))
    assert objections(tenant, model, dataset) == [("graph_too_large", "/recipe")]
    with transaction() as session:
        (blocking, *_) = jobs.plan(session, tenant, ask(model, dataset)).objections
    assert "2,130,706,432" in blocking.text
    assert "Quantize more" in blocking.text
    for_files = recipe_of("quantize.onnx")
    assert ("method_not_applicable", "/recipe/steps/0") in objections(tenant, model, dataset, recipe=for_files)
    # As integers it fits, but the original would have to become ONNX in floats.
    numbers = {"layers": (large.model_copy(update={"parameters": 10**9}),), "parameters": 10**9}
    assert objections(tenant, make_model(tenant, described_model(**numbers)), dataset) == []
    # Training leaves them floats.
    trained = objections(tenant, make_model(tenant, described_model(**numbers)), dataset, recipe=recipe_of("finetune"))
    assert ("graph_too_large", "/recipe") in trained
    program = make_model(tenant, described_model(**numbers, format="pt2"))
    assert objections(tenant, program, dataset) == [("graph_too_large", "/model")]
    kept = recipe_of("quantize.linear", keep_float=["fc1"])
    wide = make_model(
        tenant, described_model(**{**numbers, "layers": (described_model().layers[0], *numbers["layers"])})
    )
    assert objections(tenant, wide, dataset, recipe=kept) == [("graph_too_large", "/recipe")]


def recipe_of(method: str, **settings: object) -> dict[str, object]:
    return {"steps": [{"method": method, **settings}]}
