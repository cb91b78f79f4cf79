"""The job protocol as a state machine: whatever users, workers, crashes and sweeps do, in whatever order."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.database.session import transaction
from core.errors import ModelpressError
from core.messages import LogMessage
from core.resources.shape import Failure
from core.resources.webhook import WebhookCreate
from core.services import attempts, jobs, leases, sweeps, webhooks
from core.services.leases import Lease, LeaseLost
from core.settings import settings as service_settings
from tests.conftest import make_tenant
from tests.core.services.makers import (
    ask,
    make_artifacts,
    make_checkpoint,
    make_dataset,
    make_model,
    make_verdict,
)

TERMINAL = ("succeeded", "failed", "cancelled")
WORKERS = st.sampled_from(["one", "two"])
# So few that the same job is met again and again.
MOST_JOBS = 3


# All that a worker may write, each fenced by its lease.
WRITES: dict[str, Callable[[Session, Lease], None]] = {
    "say": lambda session, lease: attempts.record_logs(session, lease, [LogMessage(text="hello")]),
    "keep": lambda session, lease: attempts.record_checkpoint(session, lease, ("key",), make_checkpoint()),
    "finish": lambda session, lease: attempts.finish(session, lease, make_verdict(), make_artifacts()),
    "fail": lambda session, lease: attempts.fail(session, lease, Failure(code="invalid_data", detail="No.")),
    "release": leases.release,
    "lose": lambda session, lease: leases.lose(session, lease, "killed"),
}


@dataclass
class Expected:
    """What the machine believes of a job."""

    state: str = "queued"
    epoch: int = 0
    losses: int = 0
    cancel: bool = False
    due: bool = True
    expired: bool = False


class Protocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        with transaction() as session:
            session.execute(text("TRUNCATE tenants, outbox CASCADE"))
        self.tenant = make_tenant()
        self.asked = ask(make_model(self.tenant), make_dataset(self.tenant))
        with transaction() as session:
            webhooks.create(session, self.tenant, WebhookCreate(url="http://127.0.0.1:9/", events=("job.*",)))
        self.expected: dict[str, Expected] = {}
        self.given: list[Lease] = []

    @precondition(lambda self: len(self.unfinished()) < MOST_JOBS)
    @rule()
    def submit(self) -> None:
        with transaction() as session:
            job = jobs.create(session, self.tenant, self.asked).id
        self.expected[job] = Expected()

    @rule(worker=WORKERS)
    def hear_a_message(self, worker: str) -> None:
        """First, repeated, late: all messages are alike."""
        with transaction() as session:
            claim = attempts.claim(session, worker)
        waiting = [job for job, expected in self.expected.items() if expected.state == "queued" and expected.due]
        assert (claim.lease.id if claim else None) == (waiting[0] if waiting else None)
        if claim is not None:
            expected = self.expected[claim.lease.id]
            expected.state, expected.epoch, expected.expired = "running", expected.epoch + 1, False
            assert claim.lease.epoch == expected.epoch
            self.given.append(claim.lease)

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.held()))
        with transaction() as session:
            beat = leases.renew(session, lease)
        assert beat == leases.Beat(cancel=self.expected[lease.id].cancel)
        self.expected[lease.id].expired = False

    @precondition(lambda self: self.held())
    @rule(data=st.data(), name=st.sampled_from(sorted(WRITES)))
    def write(self, data: st.DataObject, name: str) -> None:
        lease = data.draw(st.sampled_from(self.held()))
        with transaction() as session:
            WRITES[name](session, lease)
        if name == "lose":
            self.lose(lease.id)
        elif name not in ("say", "keep"):
            self.end(lease.id, {"finish": "succeeded", "fail": "failed", "release": "queued"}[name])

    @precondition(lambda self: self.stale())
    @rule(data=st.data(), name=st.sampled_from(sorted(WRITES)))
    def write_as_a_zombie(self, data: st.DataObject, name: str) -> None:
        lease = data.draw(st.sampled_from(self.stale()))
        with transaction() as session:
            assert leases.renew(session, lease) is None
        with pytest.raises(LeaseLost), transaction() as session:
            WRITES[name](session, lease)

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def let_a_lease_run_out(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.held()))
        with transaction() as session:
            statement = "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = :id"
            session.execute(text(statement), {"id": lease.id})
        self.expected[lease.id].expired = True

    @rule()
    def let_waits_pass(self) -> None:
        with transaction() as session:
            session.execute(text("UPDATE jobs SET run_after = now()"))
        for expected in self.expected.values():
            expected.due = True

    @rule(messages=st.one_of(st.none(), st.integers(0, 3)))
    def sweep(self, messages: int | None) -> None:
        with transaction() as session:
            full = {"inspect": 1000, "deliver": 1000}
            report = sweeps.sweep(session, None if messages is None else {**full, "compute": messages})
            unsent = session.scalar(text("SELECT count(*) FROM outbox WHERE queue = 'compute' AND sent_at IS NULL"))
        lost = [job for job, expected in self.expected.items() if expected.state == "running" and expected.expired]
        assert report.lost_jobs == len(lost)
        for job in lost:
            self.lose(job)
        if messages is not None:
            waiting = sum(expected.state == "queued" and expected.due for expected in self.expected.values())
            assert (unsent or 0) + messages >= waiting
            assert report.sent_again == 0 or (unsent or 0) + messages == waiting

    @rule()
    def send_the_outbox(self) -> None:
        with transaction() as session:
            session.execute(text("UPDATE outbox SET sent_at = now()"))

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.unfinished() or list(self.expected)))
        expected = self.expected[job]
        if expected.state in ("succeeded", "failed"):
            with pytest.raises(ModelpressError, match="already"), transaction() as session:
                jobs.cancel(session, self.tenant, job)
            return
        with transaction() as session:
            jobs.cancel(session, self.tenant, job)
        if expected.state == "queued":
            expected.state = "cancelled"
        expected.cancel = expected.cancel or expected.state == "running"

    @invariant()
    def the_database_agrees(self) -> None:
        with transaction() as session:
            rows = session.execute(text(_STATE)).mappings().all()
        assert len(rows) == len(self.expected)
        for row in rows:
            expected = self.expected[row["id"]]
            assert (row["state"], row["epoch"], row["worker_losses"]) == (
                expected.state,
                expected.epoch,
                expected.losses,
            )
            assert row["leased"] == (expected.state == "running")
            assert row["artifacts"] == (expected.state == "succeeded")
            assert row["endings"] == (expected.state in TERMINAL)
            assert row["told"] == row["endings"]
            assert row["stream_seq"] == row["streamed"] == row["last"]

    def unfinished(self) -> list[str]:
        return [job for job, expected in self.expected.items() if expected.state not in TERMINAL]

    def held(self) -> list[Lease]:
        return [lease for lease in self.given if self.holds(lease)]

    def stale(self) -> list[Lease]:
        return [lease for lease in self.given if not self.holds(lease)]

    def holds(self, lease: Lease) -> bool:
        expected = self.expected[lease.id]
        return expected.state == "running" and expected.epoch == lease.epoch

    def end(self, job: str, state: str) -> None:
        expected = self.expected[job]
        expected.state = "cancelled" if expected.cancel else state
        expected.expired, expected.due = False, True

    def lose(self, job: str) -> None:
        expected = self.expected[job]
        expected.losses += 1
        self.end(job, "failed" if expected.losses >= 3 else "queued")
        expected.due = expected.losses == 1


_STATE = """
SELECT j.id, j.state, j.epoch, j.worker_losses, j.stream_seq,
  j.lease_owner IS NOT NULL AND j.lease_expires_at IS NOT NULL AS leased,
  (SELECT count(*) FROM artifacts a WHERE a.job_id = j.id AND a.state = 'final') AS artifacts,
  (SELECT count(*) FROM events e WHERE e.subject_id = j.id AND e.type <> 'job.running') AS endings,
  (SELECT count(*) FROM deliveries d JOIN events e ON e.id = d.event_id
    WHERE e.subject_id = j.id AND e.type <> 'job.running') AS told,
  (SELECT count(*) FROM stream s WHERE s.job_id = j.id) AS streamed,
  (SELECT coalesce(max(seq), 0) FROM stream s WHERE s.job_id = j.id) AS last
FROM jobs j
"""


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            # Shrinking a run against a real database takes minutes, and its trace reads well as it is.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def calm_clock(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only where a rule says so; and an endpoint on loopback is allowed."""
    monkeypatch.setenv("MODELPRESS_LEASE_SECONDS", "3600")
    monkeypatch.setenv("MODELPRESS_SECOND_LOSS_DELAY_SECONDS", "3600")
    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["127.0.0.0/8"]')
    service_settings.cache_clear()


@pytest.mark.usefixtures("calm_clock")
def test_the_protocol_holds() -> None:
    run(examples=15, steps=50)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("calm_clock")
def test_the_protocol_holds_for_long() -> None:
    run(examples=60, steps=60)
