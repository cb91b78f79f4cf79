"""Which checkpoint a job goes on from, and when one is no longer needed."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.database.session import transaction
from core.database.tables import CheckpointRow, DatasetRow, JobRow, MetricRow, ModelRow
from core.messages import MetricMessage
from core.resources.shape import Failure
from core.services import attempts, checkpoints, datasets, jobs, leases, models, sweeps
from core.services.attempts import JobClaim, StagedCheckpoint
from core.services.leases import LeaseLost
from core.settings import settings
from tests.conftest import make_tenant
from tests.core.services.makers import (
    ask,
    make_artifacts,
    make_checkpoint,
    make_dataset,
    make_model,
    make_verdict,
)


def steps(*updates: int) -> dict[str, Any]:
    return {"steps": [{"method": "finetune", "steps": number} for number in updates]}


class Given:
    """Jobs on one model and data set, and what their attempts do."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.model, self.dataset = make_model(tenant), make_dataset(tenant)

    def submit(self, *updates: int, **changes: Any) -> str:
        asked = {"recipe": steps(*updates), "model": self.model, "dataset": self.dataset} | changes
        with transaction() as session:
            return jobs.create(session, self.tenant, ask(asked.pop("model"), asked.pop("dataset"), **asked)).id

    def claim(self) -> JobClaim:
        with transaction() as session:
            found = attempts.claim(session, "worker")
        assert found is not None
        return found

    def keep(self, claim: JobClaim, checkpoint: StagedCheckpoint) -> None:
        with transaction() as session:
            attempts.record_checkpoint(session, claim.lease, claim.keys, checkpoint)

    def measure(self, claim: JobClaim, *values: float) -> None:
        with transaction() as session:
            messages = [MetricMessage(name="loss", value=value) for value in values]
            attempts.record_metrics(session, claim.lease, messages)

    def lose(self, claim: JobClaim) -> None:
        with transaction() as session:
            leases.lose(session, claim.lease, "gone")

    def finish(self, claim: JobClaim) -> None:
        with transaction() as session:
            attempts.finish(session, claim.lease, make_verdict(), make_artifacts())


@pytest.fixture
def given(tenant: str) -> Given:
    return Given(tenant)


def rows(session: Session) -> list[tuple[int, bool, bool]]:
    found = session.scalars(select(CheckpointRow).order_by(CheckpointRow.id))
    return [(row.step, row.finished, row.dropped_at is not None) for row in found]


class TestResume:
    def test_a_first_attempt_begins_at_the_beginning(self, given: Given) -> None:
        given.submit(1, 2)
        assert given.claim().resume is None

    def test_the_next_attempt_goes_on_from_the_last_step_and_the_state_after_it(self, given: Given) -> None:
        given.submit(1, 2, 3)
        first = given.claim()
        for checkpoint in (
            make_checkpoint(0),
            make_checkpoint(1, finished=False),
            make_checkpoint(1),
            make_checkpoint(2, finished=False, digest="ef" * 32),
        ):
            given.keep(first, checkpoint)
        given.lose(first)
        resume = given.claim().resume
        assert resume is not None
        assert (resume.job, resume.steps) == (first.lease.id, 2)
        assert [file.area for file in (*resume.finished, *resume.partial)] == ["checkpoints", "checkpoints"]
        assert resume.partial[0].sha256 == "ef" * 32

    def test_a_state_inside_the_first_step_is_enough(self, given: Given) -> None:
        given.submit(1)
        first = given.claim()
        given.keep(first, make_checkpoint(0, finished=False))
        given.lose(first)
        resume = given.claim().resume
        assert resume is not None
        assert (resume.steps, len(resume.finished), len(resume.partial)) == (0, 0, 1)

    def test_only_the_last_state_inside_a_step_is_kept(self, given: Given) -> None:
        given.submit(1, 2)
        first = given.claim()
        for checkpoint in (
            make_checkpoint(0, finished=False),
            make_checkpoint(0, finished=False),
            make_checkpoint(0),
            make_checkpoint(1, finished=False),
        ):
            given.keep(first, checkpoint)
        with transaction() as session:
            assert rows(session) == [(0, False, True), (0, False, True), (0, True, False), (1, False, False)]

    def test_whoever_lost_the_lease_keeps_nothing(self, given: Given) -> None:
        given.submit(1)
        first = given.claim()
        given.lose(first)
        given.claim()
        with pytest.raises(LeaseLost):
            given.keep(first, make_checkpoint(0))

    def test_whoever_began_again_leaves_nothing_of_the_attempt_before(self, given: Given) -> None:
        given.submit(1, 2)
        first = given.claim()
        given.keep(first, make_checkpoint(0))
        given.keep(first, make_checkpoint(1))
        given.lose(first)
        second = given.claim()
        given.keep(second, make_checkpoint(0, finished=False, digest="ef" * 32))
        given.lose(second)
        with transaction() as session:
            session.execute(update(JobRow).values(run_after=func.now()))
            assert rows(session) == [(0, True, True), (1, True, True), (0, False, False)]
        resume = given.claim().resume
        assert resume is not None
        assert (resume.steps, resume.finished, resume.partial[0].sha256) == (0, (), "ef" * 32)

    def test_metrics_count_on_from_the_checkpoint_however_often_it_is_used(self, given: Given) -> None:
        job = given.submit(1, 2)
        claim = given.claim()
        given.measure(claim, 1.0, 2.0)
        given.keep(claim, make_checkpoint(0))
        for value in (3.0, 4.0):
            given.measure(claim, value)
            given.lose(claim)
            with transaction() as session:
                session.execute(update(JobRow).values(run_after=func.now()))
            claim = given.claim()
        given.measure(claim, 5.0)
        with transaction() as session:
            assert [point.value for point in jobs.metrics(session, given.tenant, job).data] == [1.0, 2.0, 5.0]
            epochs = session.scalars(select(MetricRow.epoch).order_by(MetricRow.id)).all()
        assert epochs == [3, 3, 3]

    def test_other_versions_start_over(self, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
        given.submit(1)
        first = given.claim()
        given.keep(first, make_checkpoint(0))
        given.lose(first)
        monkeypatch.setattr(checkpoints, "versions", lambda: {"torch": "3.0"})
        assert given.claim().resume is None


class TestEqualBeginnings:
    def finished(self, given: Given) -> str:
        job = given.submit(1, 2, 3)
        claim = given.claim()
        for step in range(3):
            given.keep(claim, make_checkpoint(step))
        given.finish(claim)
        return job

    @pytest.mark.parametrize(("updates", "shared"), [((1, 2, 3), 3), ((1, 2), 2), ((1, 2, 9), 2), ((1, 9, 3), 1)])
    def test_the_longest_is_taken(self, given: Given, updates: tuple[int, ...], shared: int) -> None:
        job = self.finished(given)
        given.submit(*updates)
        resume = given.claim().resume
        assert resume is not None
        assert (resume.job, resume.steps, resume.partial) == (job, shared, ())

    def test_a_later_attempt_goes_on_after_what_was_taken_even_when_it_is_gone_from_the_other(
        self, given: Given
    ) -> None:
        other = self.finished(given)
        job = given.submit(1, 2, 9)
        claim = given.claim()
        given.measure(claim, 1.0)
        given.keep(claim, make_checkpoint(2, finished=False, digest="ef" * 32))
        given.measure(claim, 2.0)
        given.lose(claim)
        with transaction() as session:
            checkpoints.drop(session, CheckpointRow.job_id == other)
        resume = given.claim().resume
        assert resume is not None
        assert (resume.job, resume.steps, resume.partial[0].sha256) == (job, 2, "ef" * 32)
        assert resume.finished
        with transaction() as session:
            assert [point.value for point in jobs.metrics(session, given.tenant, job).data] == [1.0]
            assert checkpoints.garbage(session).sha256s == ()

    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 1},
            {"target": {"threads": 2}},
            {"constraints": {"max_drop": 0.1}},
            {"recipe": steps(2, 1)},
        ],
    )
    def test_what_began_otherwise_is_not(self, given: Given, changes: dict[str, Any]) -> None:
        self.finished(given)
        given.submit(1, 2, 3, **changes)
        assert given.claim().resume is None

    def test_nor_what_began_with_other_data_or_another_model(self, given: Given) -> None:
        self.finished(given)
        with transaction() as session:
            row = session.scalars(select(JobRow)).one()
            asked = ask(row.model_id, row.dataset_id, recipe=steps(1, 2, 3))
            model, dataset = session.get_one(ModelRow, row.model_id), session.get_one(DatasetRow, row.dataset_id)
            keys = checkpoints.keys_of(asked, model, dataset, None)
            session.expunge_all()
        model.sha256 = "01" * 32
        others = checkpoints.keys_of(asked, model, dataset, None)
        dataset.spec = {**dataset.spec, "task": "regression"}
        more = checkpoints.keys_of(asked, model, dataset, None)
        dataset.files = [{**file, "filename": "data.tsv"} for file in dataset.files]
        renamed = checkpoints.keys_of(asked, model, dataset, None)
        assert len({*keys, *others, *more, *renamed}) == 12

    def test_nor_that_of_another_tenant_or_another_kind_of_machine(
        self, given: Given, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.finished(given)
        other = Given(make_tenant())
        other.submit(1, 2, 3)
        assert other.claim().resume is None
        monkeypatch.setattr(checkpoints, "host_kind", lambda: "another")
        given.submit(1, 2, 3)
        assert given.claim().resume is None


def test_a_machine_where_runners_get_other_threads_is_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(threads: str, cores: int) -> str:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        return checkpoints.host_kind.__wrapped__()

    assert kind("2", 4) == kind("2", 8) == kind("", 2)
    assert len({kind("2", 4), kind("4", 4), kind("", 8)}) == 3


class TestEnd:
    def test_what_is_inside_a_step_goes_and_what_finished_steps_made_stays(self, given: Given) -> None:
        given.submit(1, 2)
        claim = given.claim()
        given.keep(claim, make_checkpoint(0))
        given.keep(claim, make_checkpoint(1, finished=False))
        with transaction() as session:
            attempts.fail(session, claim.lease, Failure(code="out_of_memory", detail="Too much."))
        with transaction() as session:
            assert rows(session) == [(0, True, False), (1, False, True)]

    def test_a_cancelled_job_keeps_nothing(self, given: Given) -> None:
        job = given.submit(1)
        claim = given.claim()
        given.keep(claim, make_checkpoint(0))
        with transaction() as session:
            jobs.cancel(session, given.tenant, job)
            attempts.cancelled(session, claim.lease)
        with transaction() as session:
            assert rows(session) == [(0, True, True)]

    def test_without_retention_nothing_stays(self, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODELPRESS_CHECKPOINT_RETENTION_SECONDS", "0")
        settings.cache_clear()
        given.submit(1)
        claim = given.claim()
        given.keep(claim, make_checkpoint(0))
        given.finish(claim)
        with transaction() as session:
            assert rows(session) == [(0, True, True)]

    def test_the_sweep_drops_what_is_old_but_never_that_of_a_job_that_runs(self, given: Given) -> None:
        given.submit(1)
        given.submit(2)
        ended, runs = given.claim(), given.claim()
        given.keep(ended, make_checkpoint(0))
        given.keep(runs, make_checkpoint(0))
        given.finish(ended)
        with transaction() as session:
            assert sweeps.sweep(session).dropped == 0
            session.execute(update(CheckpointRow).values(created_at=func.now() - timedelta(days=2)))
            assert sweeps.sweep(session).dropped == 1
            living = session.scalars(select(CheckpointRow.job_id).where(CheckpointRow.dropped_at.is_(None))).all()
        assert living == [runs.lease.id]

    @pytest.mark.parametrize("kind", ["model", "dataset"])
    def test_those_of_what_was_deleted_go_at_once(self, given: Given, kind: str) -> None:
        given.submit(1)
        claim = given.claim()
        given.keep(claim, make_checkpoint(0))
        given.finish(claim)
        with transaction() as session:
            if kind == "model":
                models.delete(session, given.tenant, given.model)
            else:
                datasets.delete(session, given.tenant, given.dataset)
        with transaction() as session:
            assert sweeps.sweep(session).dropped == 1

    def test_blobs_that_another_checkpoint_needs_are_not_garbage(self, given: Given) -> None:
        given.submit(1, 2)
        claim = given.claim()
        given.keep(claim, make_checkpoint(0, finished=False, digest="aa" * 32))
        given.keep(claim, make_checkpoint(0, finished=False, digest="bb" * 32))
        given.keep(claim, make_checkpoint(0, digest="bb" * 32))
        with transaction() as session:
            found = checkpoints.garbage(session)
            assert (len(found.ids), found.sha256s) == (2, ("aa" * 32,))
            checkpoints.forget(session, found.ids)
            assert checkpoints.garbage(session).ids == ()
            assert rows(session) == [(0, True, False)]
