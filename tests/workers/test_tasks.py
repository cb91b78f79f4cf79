"""The tasks in this process, with a real database, a real sandbox and the toy runner."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select

from core.database.session import transaction
from core.database.tables import CheckpointRow, JobRow, MetricRow, ModelRow
from core.resources.model import DatasetCreate, ModelCreate
from core.services import artifacts, attempts, datasets, jobs, models, stream
from core.settings import settings
from core.states import JobState
from core.storage.blobs import open_blobs
from tests.chaos.world import make_model, make_tenant, make_upload, script, submit
from tests.workers.conftest import toy_processes
from workers import dispatch, heart, presence
from workers.inspect import inspect
from workers.requests import request_for, sources_of
from workers.run_job import run_job
from workers.staging import staged


@pytest.fixture
def tenant(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MODELPRESS_RUNNER_MODULE", "tests.workers.toy_runner")
    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["127.0.0.0/8"]')
    monkeypatch.setenv("MODELPRESS_HEARTBEAT_SECONDS", "0.2")
    settings.cache_clear()
    presence.sandbox.cache_clear()
    yield make_tenant()
    presence.draining.clear()
    presence.sandbox.cache_clear()


def row_of(job: str) -> JobRow:
    with transaction() as session:
        return session.get_one(JobRow, job)


def run(tenant: str, *actions: dict[str, object]) -> JobRow:
    job = submit(tenant, *actions)
    run_job("")
    return row_of(job)


def announce(kind: str = "model.onnx", path: str = "model.onnx", filename: str = "model.onnx") -> dict[str, object]:
    files = [{"path": path, "filename": filename}]
    return {"say": {"kind": "artifact", "artifact_kind": kind, "files": files}}


def keep(step: int, *, finished: bool) -> dict[str, object]:
    return {"checkpoint": {"step": step, "finished": finished, "text": f"{'after' if finished else 'inside'} {step}"}}


def measured(value: float) -> dict[str, object]:
    return {"say": {"kind": "metric", "name": "toy", "value": value}}


def logged(tenant: str, job: str) -> list[str]:
    with transaction() as session:
        return [str(event.payload["text"]) for event in stream.after(session, tenant, job, 0, types=["log"])]


class TestRunJob:
    def test_a_job_succeeds_with_verdict_files_metrics_and_stream(self, tenant: str) -> None:
        job = run(tenant, *script(3, 0.1))
        assert job.state == JobState.SUCCEEDED
        with transaction() as session:
            shown = jobs.get(session, tenant, job.id)
            assert shown.verdict is not None
            (artifact,) = artifacts.list_(session, tenant, job.id)
            epochs = session.scalars(select(MetricRow.epoch).where(MetricRow.job_id == job.id)).all()
            types = {event.type for event in stream.after(session, tenant, job.id, 0)}
        assert epochs == [1, 1, 1]
        assert {"job.state", "metric", "job.progress"} <= types
        assert b"".join(open_blobs(settings().storage_url).get(artifact.files[0].sha256)) == b"the result"

    def test_a_killed_runner_is_gone_on_from_where_it_was(self, tenant: str) -> None:
        killed = [measured(1), keep(0, finished=True), measured(2), keep(1, finished=False), measured(3), {"signal": 9}]
        again = {"recipe": {"steps": [{"method": "quantize.linear"}, {"method": "finetune"}]}}
        job = submit(tenant, {"tell_resume": 1}, {"unless_resumed": killed}, measured(4), *script(1, 0), asked=again)
        run_job("")
        assert (row_of(job).state, row_of(job).worker_losses) == (JobState.QUEUED, 1)
        run_job("")
        assert row_of(job).state == JobState.SUCCEEDED
        said = {"job": job, "steps": 1, "finished": ["after 0"], "partial": ["inside 1"]}
        assert said in [json.loads(line) for line in logged(tenant, job) if line.startswith("{")]
        with transaction() as session:
            shown = jobs.metrics(session, tenant, job, name="toy")
            rows = session.scalars(select(CheckpointRow).order_by(CheckpointRow.id)).all()
        # What was measured after the checkpoint is measured again.
        assert [point.value for point in shown.data] == [1, 2, 4]
        assert [(row.step, row.finished, row.dropped_at is None) for row in rows] == [
            (0, True, True),
            (1, False, False),
        ]

    def test_a_checkpoint_whose_bytes_are_gone_means_starting_over(self, tenant: str) -> None:
        killed = [keep(0, finished=True), {"sleep": 1}, {"signal": 9}]
        job = submit(tenant, {"tell_resume": 1}, {"unless_resumed": killed}, *script(1, 0))
        run_job("")
        with transaction() as session:
            (row,) = session.scalars(select(CheckpointRow)).all()
        digest = row.files[0]["sha256"]
        open_blobs(settings().storage_url).of_area("checkpoints").delete(digest)
        (settings().scratch_dir / "cache" / digest).unlink(missing_ok=True)
        run_job("")
        assert row_of(job).state == JobState.QUEUED
        assert any("Starting over" in line for line in logged(tenant, job))

    def test_the_dispatcher_removes_what_was_dropped(self, tenant: str) -> None:
        job = submit(tenant, keep(0, finished=False), keep(0, finished=True), *script(1, 0))
        run_job("")
        blobs = open_blobs(settings().storage_url).of_area("checkpoints")
        with transaction() as session:
            rows = session.scalars(select(CheckpointRow).order_by(CheckpointRow.id)).all()
        dropped, stays = (row.files[0]["sha256"] for row in rows)
        dispatch._remove_checkpoints()
        assert (blobs.exists(dropped), blobs.exists(stays)) == (False, True)
        with transaction() as session:
            assert session.scalars(select(CheckpointRow.id)).all() == [rows[1].id]
            assert session.get_one(JobRow, job).state == JobState.SUCCEEDED

    def test_an_equal_beginning_of_another_job_is_taken(self, tenant: str) -> None:
        first = submit(tenant, {"tell_resume": 1}, keep(0, finished=True), *script(1, 0))
        run_job("")
        with transaction() as session:
            second = jobs.retry(session, tenant, first).id
        run_job("")
        said = {"job": first, "steps": 1, "finished": ["after 0"], "partial": []}
        assert said in [json.loads(line) for line in logged(tenant, second) if line.startswith("{")]

    def test_a_checkpoint_of_a_step_that_there_is_not(self, tenant: str) -> None:
        job = run(tenant, keep(3, finished=True), {"sleep": 5}, {"done": 1})
        assert job.error is not None
        assert job.error["code"] == "protocol_violation"

    def test_what_a_message_promises_and_nothing_waits(self, tenant: str) -> None:
        run_job("job_unknown")

    def test_the_runner_finds_the_files_of_other_models_by_their_ids(self, tenant: str) -> None:
        teachers = [make_model(tenant, text) for text in ("one", "two")]
        asked = {"recipe": {"steps": [{"method": "distill.logits", "teacher": ["original", *teachers]}]}}
        submit(tenant, {"done": 1}, asked=asked)
        with transaction() as session:
            claim = attempts.claim(session, "worker")
        assert claim is not None
        with staged(sources_of(claim), open_blobs(settings().storage_url)) as folder:
            request = request_for(claim, folder)
            places = dict(zip(presence.sandbox().inputs(folder), folder.inputs, strict=True))
            found = {name: [places[file.path].read_text() for file in files] for name, files in request.models.items()}
        assert found == {teachers[0]: ["one"], teachers[1]: ["two"]}

    def test_the_runner_says_why_not(self, tenant: str) -> None:
        said = {"kind": "error", "code": "unsupported_layer", "detail": "fc is odd", "layer": "fc"}
        job = run(tenant, {"say": said})
        assert job.state == JobState.FAILED
        assert job.error is not None
        assert (job.error["code"], job.error["layer"]) == ("unsupported_layer", "fc")
        assert job.error["hint"]

    def test_a_code_that_nobody_knows_is_ours(self, tenant: str) -> None:
        job = run(tenant, {"say": {"kind": "error", "code": "made_up", "detail": "x"}})
        assert job.error is not None
        assert job.error["code"] == "internal"

    def test_a_runner_killed_without_a_word_is_a_loss(self, tenant: str) -> None:
        job = run(tenant, {"complain": "last words"}, {"signal": 9})
        assert (job.state, job.worker_losses) == (JobState.QUEUED, 1)

    def test_the_last_words_are_in_the_log(self, tenant: str) -> None:
        job = run(tenant, {"complain": "last words"}, {"exit": 1})
        with transaction() as session:
            events = stream.after(session, tenant, job.id, 0, types=["log"])
        assert "last words" in str(events[-1].payload)

    def test_an_answer_to_another_question(self, tenant: str) -> None:
        job = run(tenant, {"describe": 1})
        assert job.error is not None
        assert job.error["code"] == "protocol_violation"

    def test_a_file_that_is_none_of_the_runner(self, tenant: str) -> None:
        job = run(tenant, {"link": ["out/model.onnx", "/etc/hostname"]}, announce(), {"done": 1})
        assert job.state == JobState.FAILED
        assert job.error is not None
        assert job.error["code"] == "protocol_violation"

    def test_too_many_artifacts(self, tenant: str) -> None:
        job = run(tenant, *(announce(kind=f"kind{count}") for count in range(100)), {"done": 1})
        assert job.error is not None
        assert job.error["code"] == "protocol_violation"

    def test_bytes_that_cannot_be_had_may_be_had_by_the_next_attempt(self, tenant: str) -> None:
        job = submit(tenant, {"done": 1})
        with transaction() as session:
            model = session.get_one(ModelRow, session.get_one(JobRow, job).model_id)
            open_blobs(settings().storage_url).delete(model.files[0]["sha256"])
        run_job("")
        assert (row_of(job).state, row_of(job).worker_losses) == (JobState.QUEUED, 1)

    def test_a_cancel_stops_the_runner(self, tenant: str) -> None:
        job = submit(tenant, {"say": {"kind": "progress", "method": "toy", "fraction": 0}}, {"spin": 1})
        stopped = threading.Event()
        listener = threading.Thread(target=heart.listen_for_cancels, args=(stopped,))
        listener.start()
        worker = threading.Thread(target=run_job, args=("",))
        worker.start()
        wait_until(lambda: row_of(job).progress is not None)
        with transaction() as session:
            jobs.cancel(session, tenant, job)
        worker.join(5)
        stopped.set()
        listener.join()
        assert not worker.is_alive()
        assert row_of(job).state == JobState.CANCELLED

    def test_a_worker_that_leaves_gives_the_job_back_uncharged(self, tenant: str) -> None:
        job = submit(tenant, {"say": {"kind": "progress", "method": "toy", "fraction": 0}}, {"spin": 1})
        worker = threading.Thread(target=run_job, args=("",))
        worker.start()
        wait_until(lambda: row_of(job).progress is not None)
        presence.draining.set()
        worker.join(5)
        row = row_of(job)
        assert (row.state, row.attempt, row.worker_losses) == (JobState.QUEUED, 0, 0)
        run_job("")
        assert row_of(job).state == JobState.QUEUED  # it takes nothing more

    def test_a_worker_whose_job_was_given_away_writes_nothing_more(self, tenant: str) -> None:
        job = submit(tenant, {"say": {"kind": "progress", "method": "toy", "fraction": 0}}, {"spin": 1})
        worker = threading.Thread(target=run_job, args=("",))
        worker.start()
        wait_until(lambda: row_of(job).progress is not None)
        with transaction() as session:
            row = session.get_one(JobRow, job)
            row.epoch, row.lease_owner = 7, "another"
        worker.join(5)
        assert not worker.is_alive()
        row = row_of(job)
        assert (row.state, row.epoch, row.worker_losses) == (JobState.RUNNING, 7, 0)

    def test_a_worker_that_the_database_does_not_answer_kills_its_runner_in_time(
        self, tenant: str, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MODELPRESS_SELF_FENCE_SECONDS", "1.5")
        settings.cache_clear()
        job = submit(tenant, {"say": {"kind": "progress", "method": "toy", "fraction": 0}}, {"spin": 1})
        worker = threading.Thread(target=run_job, args=("",))
        worker.start()
        wait_until(lambda: row_of(job).progress is not None)
        assert toy_processes()
        with psycopg.connect(database) as connection:
            connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            wait_until(lambda: not toy_processes(), 4)
        worker.join(10)
        assert not worker.is_alive()
        row = row_of(job)
        assert (row.state, row.worker_losses) == (JobState.RUNNING, 0)  # for the sweep to take back


class TestInspect:
    def _make_model(self, tenant: str, *actions: dict[str, object]) -> str:
        upload = make_upload(tenant, json.dumps({"inspect": actions}).encode())
        with transaction() as session:
            return models.create(session, tenant, ModelCreate(uploads=(upload,))).id

    def test_model_and_data_set_become_ready(self, tenant: str) -> None:
        model = self._make_model(tenant)
        upload = make_upload(tenant, b"data")
        asked = {"uploads": [upload], "task": "classification", "splits": {"train": {"x": "x"}}}
        with transaction() as session:
            dataset = datasets.create(session, tenant, DatasetCreate.model_validate(asked)).id
        inspect("")
        inspect("")
        with transaction() as session:
            assert models.get(session, tenant, model).state == "ready"
            assert datasets.get(session, tenant, dataset).state == "ready"

    def test_a_bad_file_is_rejected_with_its_node(self, tenant: str) -> None:
        said = {"kind": "error", "code": "unsupported_operator", "detail": "Foo is not known", "node": "/foo"}
        model = self._make_model(tenant, {"say": said}, {"exit": 0})
        inspect("")
        with transaction() as session:
            found = models.get(session, tenant, model)
        assert found.state == "rejected"
        assert found.error is not None
        assert (found.error.code, found.error.node) == ("unsupported_operator", "/foo")

    def test_a_file_that_kills_the_runner_is_rejected_in_the_end(self, tenant: str) -> None:
        model = self._make_model(tenant, {"signal": 11})
        for _ in range(3):
            with transaction() as session:
                session.get_one(ModelRow, model).run_after = session.get_one(ModelRow, model).created_at
            inspect("")
        with transaction() as session:
            found = models.get(session, tenant, model)
        assert found.state == "rejected"
        assert found.error is not None
        assert found.error.code == "worker_lost"


def wait_until(question: object, seconds: float = 10) -> None:
    assert callable(question)
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_is_left_in_the_scratch_folder(tenant: str) -> None:
    run(tenant, *script(1, 0))
    assert list((settings().scratch_dir / "runs").iterdir()) == []
    cached = list((settings().scratch_dir / "cache").iterdir())
    assert len(cached) == 2
    assert all(path.stat().st_mode & 0o222 == 0 for path in cached)


def test_old_inputs_make_room(tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPRESS_CACHE_BYTES", "10")
    settings.cache_clear()
    run(tenant, {"done": 1})
    run(tenant, {"done": 1})
    assert len(list((Path(settings().scratch_dir) / "cache").iterdir())) <= 2
