import math

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.database.session import transaction
from core.database.tables import EventRow, JobRow, OutboxRow
from core.errors import ModelpressError
from core.messages import LogMessage, MetricMessage, ProgressMessage, StepMessage
from core.resources.shape import Failure
from core.services import artifacts, attempts, jobs, leases, stream, sweeps
from core.services.attempts import JobClaim
from core.services.leases import LeaseLost
from tests.conftest import make_tenant
from tests.core.services.makers import make_artifacts, make_job, make_verdict

FAILURE = Failure(code="invalid_data", detail="Row 3 is empty.\x00", layer="fc1")


def claim(worker: str = "one") -> JobClaim:
    with transaction() as session:
        found = attempts.claim(session, worker)
    assert found is not None
    return found


def expire() -> sweeps.SweepReport:
    """Lets every lease run out, and sweeps."""
    with transaction() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'"))
    with transaction() as session:
        return sweeps.sweep(session)


def let_wait_pass() -> None:
    with transaction() as session:
        session.execute(text("UPDATE jobs SET run_after = now()"))


def event_types(job: str) -> list[str]:
    with transaction() as session:
        statement = select(EventRow.type).where(EventRow.subject_id == job).order_by(EventRow.id)
        return list(session.scalars(statement))


def test_a_claim_has_all_that_an_attempt_needs(tenant: str) -> None:
    job = make_job(tenant, seed=5)
    found = claim()
    assert (found.lease.id, found.lease.epoch, found.attempt, found.seed) == (job, 1, 1, 5)
    assert [file.filename for file in (*found.model, *found.dataset)] == ["net.onnx", "mnist.npz"]
    assert found.dataset_spec is not None
    assert found.request.recipe.steps[0].method == "quantize.linear"
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
        assert attempts.claim(session, "two") is None
    assert (shown.state, shown.attempt, shown.queue_position) == ("running", 1, None)
    assert event_types(job) == ["job.running"]


def test_the_fairest_job_is_claimed_first(tenant: str) -> None:
    crowd = [make_job(tenant) for _ in range(3)]
    alone = make_job(make_tenant())
    # The tenant with fewer running jobs comes first, and then the older job.
    assert [claim().lease.id for _ in range(4)] == [crowd[0], alone, crowd[1], crowd[2]]


def test_what_a_runner_says_is_kept_and_streamed_in_order(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        attempts.record_step(session, lease, StepMessage(position=1, name="quantize.linear", state="running"))
        attempts.record_progress(session, lease, ProgressMessage(step=1, method="quantize.linear", fraction=0.5))
        attempts.record_metrics(
            session, lease, [MetricMessage(name="loss", value=float(n), split="train", at=n) for n in range(3)]
        )
        attempts.record_metrics(session, lease, [MetricMessage(name="odd", value=math.nan)])
        attempts.record_logs(session, lease, [LogMessage(text="a"), LogMessage(text="b", level="warning")])
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
        events = stream.after(session, tenant, job, 0)
        series = jobs.metrics(session, tenant, job, name="loss", split="train").data
        log = stream.last_lines(session, tenant, job, limit=1)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    types = [
        "job.state",
        "job.state",
        "job.state",
        "job.progress",
        "metric",
        "metric",
        "metric",
        "metric",
        "log",
        "log",
    ]
    assert [event.type for event in events] == types
    assert shown.progress is not None
    assert (shown.steps[1].state, shown.progress.fraction) == ("running", 0.5)
    assert [point.value for point in series] == [0, 1, 2]
    assert [event.payload["text"] for event in log] == ["b"]


def test_a_stream_resumes_after_a_number(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        attempts.record_logs(session, lease, [LogMessage(text=str(number)) for number in range(10)])
        assert [event.seq for event in stream.after(session, tenant, job, 3, limit=2)] == [4, 5]
        assert not stream.is_over(session, tenant, job)


def test_a_finished_job_has_verdict_artifacts_and_one_event(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        attempts.record_step(session, lease, StepMessage(position=0, name="prepare", state="running"))
        attempts.finish(session, lease, make_verdict(), make_artifacts("model.onnx", "plan.json"))
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
        kept = artifacts.list_(session, tenant, job)
        assert artifacts.get(session, tenant, kept[0].id) == kept[0]
        assert stream.is_over(session, tenant, job)
        headline = jobs.list_(session, tenant).data[0].headline
    assert shown.state == "succeeded"
    assert shown.verdict is not None
    assert shown.verdict.reproduce.plan == kept[1].id
    assert (headline.speedup, headline.quality_after) == (1.5, 0.91) if headline else False
    assert [step.state for step in shown.steps] == ["succeeded", "skipped", "skipped", "skipped"]
    assert event_types(job) == ["job.running", "job.succeeded"]


def test_a_verdict_with_infinite_numbers_is_refused(tenant: str) -> None:
    make_job(tenant)
    lease = claim().lease
    verdict = make_verdict()
    broken = verdict.model_copy(update={"change": verdict.change.model_copy(update={"size_ratio": math.inf})})
    with pytest.raises(ModelpressError, match="not finite"), transaction() as session:
        attempts.finish(session, lease, broken, [])


def test_a_failed_job_says_why(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        attempts.record_step(session, lease, StepMessage(position=0, name="prepare", state="running"))
        attempts.fail(session, lease, FAILURE)
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
    assert (shown.state, shown.error) == ("failed", FAILURE.model_copy(update={"detail": "Row 3 is empty."}))
    assert [step.state for step in shown.steps] == ["failed", "skipped", "skipped", "skipped"]
    assert event_types(job)[-1] == "job.failed"


def test_a_running_job_hears_of_its_cancel_with_the_next_beat(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        assert leases.renew(session, lease) == leases.Beat(cancel=False)
        assert jobs.cancel(session, tenant, job).cancel_requested
        assert jobs.cancel(session, tenant, job).state == "running"
    with transaction() as session:
        assert leases.renew(session, lease) == leases.Beat(cancel=True)
        attempts.cancelled(session, lease)
    assert event_types(job) == ["job.running", "job.cancelled"]


@pytest.mark.parametrize("ending", ["finish", "fail", "release", "lose", "expire"])
def test_once_cancelled_a_job_ends_as_cancelled_whatever_its_worker_does(tenant: str, ending: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        jobs.cancel(session, tenant, job)
    with transaction() as session:
        if ending == "finish":
            attempts.finish(session, lease, make_verdict(), make_artifacts())
        elif ending == "fail":
            attempts.fail(session, lease, FAILURE)
        elif ending == "release":
            leases.release(session, lease)
        elif ending == "lose":
            leases.lose(session, lease, "killed")
    if ending == "expire":
        expire()
    with transaction() as session:
        shown = jobs.get(session, tenant, job)
    assert (shown.state, shown.artifacts, shown.verdict) == ("cancelled", (), None)


def test_a_finished_job_cannot_be_cancelled(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        attempts.finish(session, lease, make_verdict(), [])
    with pytest.raises(ModelpressError, match="already succeeded"), transaction() as session:
        jobs.cancel(session, tenant, job)


def test_a_released_attempt_is_not_charged(tenant: str) -> None:
    job = make_job(tenant)
    for _ in range(5):
        lease = claim().lease
        with transaction() as session:
            leases.release(session, lease)
    found = claim()
    assert (found.lease.id, found.attempt, found.lease.epoch) == (job, 1, 6)
    with transaction() as session:
        assert jobs.get(session, tenant, job).worker_losses == 0


def test_a_job_is_lost_at_once_then_after_a_wait_then_for_good(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        leases.lose(session, lease, "runner died")
    assert claim("two").lease.epoch == 2
    assert expire().lost_jobs == 1
    with transaction() as session:
        assert attempts.claim(session, "three") is None
    let_wait_pass()
    lease = claim("three").lease
    with transaction() as session:
        leases.lose(session, lease, "killed by signal 9")
        shown = jobs.get(session, tenant, job)
    assert (shown.state, shown.worker_losses, shown.attempt) == ("failed", 3, 3)
    assert shown.error is not None
    assert shown.error.code == "worker_lost"
    assert "signal 9" in shown.error.detail
    assert event_types(job).count("job.failed") == 1


def test_a_lost_attempt_leaves_no_metrics_and_fresh_steps(tenant: str) -> None:
    job = make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        attempts.record_metrics(session, lease, [MetricMessage(name="loss", value=1)])
        attempts.record_step(session, lease, StepMessage(position=0, name="prepare", state="succeeded", seconds=2))
    expire()
    claim("two")
    with transaction() as session:
        assert jobs.metrics(session, tenant, job).data == ()
        assert {step.state for step in jobs.get(session, tenant, job).steps} == {"pending"}


@pytest.mark.parametrize("taken_again", [False, True])
def test_a_zombie_can_write_nothing(tenant: str, taken_again: bool) -> None:
    job = make_job(tenant)
    zombie = claim("zombie").lease
    expire()
    if taken_again:
        # By the same worker even: only the epoch tells the two attempts apart.
        claim("zombie")
    writes = (
        lambda session: attempts.record_progress(session, zombie, ProgressMessage(method="x", fraction=1)),
        lambda session: attempts.record_step(session, zombie, StepMessage(position=0, name="x", state="failed")),
        lambda session: attempts.record_metrics(session, zombie, [MetricMessage(name="x", value=1)]),
        lambda session: attempts.record_logs(session, zombie, [LogMessage(text="x")]),
        lambda session: attempts.finish(session, zombie, make_verdict(), make_artifacts()),
        lambda session: attempts.fail(session, zombie, FAILURE),
        lambda session: attempts.cancelled(session, zombie),
        lambda session: leases.release(session, zombie),
        lambda session: leases.lose(session, zombie, "x"),
    )
    with transaction() as session:
        before = snapshot(session, job)
    for write in writes:
        with pytest.raises(LeaseLost), transaction() as session:
            write(session)
    with transaction() as session:
        assert leases.renew(session, zombie) is None
        assert snapshot(session, job) == before


def snapshot(session: Session, job: str) -> tuple[object, ...]:
    row = session.get_one(JobRow, job)
    events = session.execute(text("SELECT count(*) FROM stream")).scalar()
    return row.state, row.epoch, row.lease_owner, row.lease_expires_at, row.worker_losses, row.stream_seq, events


def test_a_job_that_nobody_can_read_any_more_fails_instead_of_blocking_the_queue(tenant: str) -> None:
    broken, whole = make_job(tenant), make_job(tenant)
    with transaction() as session:
        session.execute(text("UPDATE jobs SET request = '{\"recipe\": 1}' WHERE id = :id"), {"id": broken})
    with transaction() as session:
        assert attempts.claim(session, "one") is None
    assert claim().lease.id == whole
    assert event_types(broken)[-1] == "job.failed"


def test_a_lost_job_gets_a_new_message_at_once(tenant: str) -> None:
    make_job(tenant)
    lease = claim().lease
    with transaction() as session:
        leases.lose(session, lease, "gone")
        assert len(session.scalars(select(OutboxRow).where(OutboxRow.task == "run_job")).all()) == 2
