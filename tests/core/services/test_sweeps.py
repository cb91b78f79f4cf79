from sqlalchemy import select, text

from core.database.session import transaction
from core.database.tables import IdempotencyRow, OutboxRow, SessionRow, SignInLinkRow, WorkerRow
from core.queue import BrokerUnavailable, enqueue
from core.services import attempts, idempotency, outbox, sign_in, sweeps, system
from core.services.system import WorkerBeat
from tests.core.services.makers import make_job, make_model

BEAT = WorkerBeat(id="w1", kind="compute", host="here", pid=1, sandbox="bwrap")


def unsent() -> list[tuple[str, str]]:
    with transaction() as session:
        rows = session.scalars(select(OutboxRow).where(OutboxRow.sent_at.is_(None)).order_by(OutboxRow.id)).all()
        return [(row.task, row.subject_id) for row in rows]


def send_all() -> None:
    with transaction() as session:
        session.execute(text("UPDATE outbox SET sent_at = now()"))


def sweep(**messages: int) -> sweeps.SweepReport:
    with transaction() as session:
        return sweeps.sweep(session, messages or None)


def test_messages_that_got_lost_are_sent_again_but_never_too_many(tenant: str) -> None:
    made = [make_job(tenant) for _ in range(3)]
    send_all()
    assert sweep(compute=3).sent_again == 0
    assert sweep().sent_again == 0
    assert sweep(compute=2).sent_again == 1
    assert sweep(compute=0).sent_again == 2
    assert sweep(compute=0).sent_again == 0
    assert {subject for _, subject in unsent()} <= set(made)
    assert len(unsent()) == 3


def test_running_and_delayed_jobs_need_no_message(tenant: str) -> None:
    make_job(tenant)
    delayed = make_job(tenant)
    send_all()
    with transaction() as session:
        attempts.claim(session, "one")
        session.execute(text("UPDATE jobs SET run_after = now() + interval '1 h' WHERE id = :id"), {"id": delayed})
    assert sweep(compute=0, inspect=0).sent_again == 0


def test_waiting_inspections_are_sent_again(tenant: str) -> None:
    model = make_model(tenant, ready=False)
    send_all()
    assert sweep(inspect=0).sent_again == 1
    assert unsent() == [("inspect", model)]


def test_only_one_sweep_runs_at_a_time(tenant: str) -> None:
    make_job(tenant)
    send_all()
    with transaction() as session:
        assert sweeps.sweep(session, {"compute": 0}).sent_again == 1
        assert sweep(compute=0) == sweeps.SweepReport()


def test_old_rows_are_thrown_out_and_young_ones_stay(tenant: str) -> None:
    with transaction() as session:
        enqueue(session, "inspect", "mdl_x")
        idempotency.begin(session, tenant, "key", "a")
        sign_in.open_session(session, link=sign_in.create_link(session, tenant))
        system.beat(session, BEAT)
    send_all()
    assert sweep().thrown_out == 0
    with transaction() as session:
        session.execute(text("UPDATE outbox SET sent_at = now() - interval '61 min'"))
        session.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '25 h'"))
        session.execute(text("UPDATE workers SET heartbeat_at = now() - interval '31 s'"))
        session.execute(text("UPDATE sessions SET expires_at = now()"))
        session.execute(text("UPDATE sign_in_links SET expires_at = now()"))
    assert sweep().thrown_out == 5
    with transaction() as session:
        for table in (OutboxRow, IdempotencyRow, WorkerRow, SessionRow, SignInLinkRow):
            assert session.scalars(select(table)).all() == []


def test_messages_leave_after_the_commit_only(tenant: str) -> None:
    sent: list[str] = []
    with transaction() as session:
        enqueue(session, "run_job", "job_x")
        with transaction() as other:
            assert outbox.drain(other, lambda task, subject: sent.append(subject)) == 0
    with transaction() as session:
        assert outbox.drain(session, lambda task, subject: sent.append(subject)) == 1
        assert outbox.drain(session, lambda task, subject: sent.append(subject)) == 0
    assert sent == ["job_x"]


def test_what_the_broker_does_not_take_stays(tenant: str) -> None:
    taken: list[str] = []

    def publish(task: str, subject: str) -> None:
        if len(taken) == 2:
            raise BrokerUnavailable
        taken.append(subject)

    with transaction() as session:
        for number in range(5):
            enqueue(session, "run_job", str(number))
    with transaction() as session:
        assert outbox.drain(session, publish) == 2
    assert [subject for _, subject in unsent()] == ["2", "3", "4"]
