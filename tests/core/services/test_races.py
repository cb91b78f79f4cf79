"""What may happen at the same time, with real connections on real threads."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy import select, text

from core.database.session import transaction
from core.database.tables import EventRow, JobRow, ModelRow
from core.errors import ModelpressError
from core.resources.job import JobCreate
from core.services import attempts, idempotency, inspections, jobs, models, outbox, sign_in, sweeps
from core.services.leases import LeaseLost
from tests.core.services.makers import ask, make_artifacts, make_dataset, make_job, make_model, make_verdict


def at_once(*acts: Callable[[], object]) -> list[object]:
    """Runs all of them at the same moment; an expected refusal is a result too."""
    barrier = Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return act()
        except (ModelpressError, LeaseLost) as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def queue_jobs(tenant: str, number: int) -> None:
    """Copies one real job many times: making each through the service would take the whole time of the test."""
    job = make_job(tenant)
    columns = [column.name for column in JobRow.__table__.columns if column.name not in ("id", "created_at")]
    names = ", ".join(columns)
    with transaction() as session:
        session.execute(
            text(
                f"INSERT INTO jobs (id, created_at, {names}) SELECT 'job_' || n, now() + n * interval '1 ms', {names} "
                "FROM jobs, generate_series(1, :number) n WHERE id = :id"
            ),
            {"number": number - 1, "id": job},
        )


def test_four_workers_claim_two_hundred_jobs_once_each(tenant: str) -> None:
    queue_jobs(tenant, 200)

    def work(name: str) -> list[str]:
        claimed = []
        while True:
            with transaction() as session:
                claim = attempts.claim(session, name)
            if claim is None:
                return claimed
            claimed.append(claim.lease.id)

    results = at_once(*(lambda name=name: work(name) for name in ("one", "two", "three", "four")))
    counts = Counter(job for claimed in results for job in claimed)
    # A claimer that finds only rows which others are taking goes home; a message brings it back.
    while rest := work("five"):
        counts.update(rest)
    assert len(counts) == 200
    assert set(counts.values()) == {1}


def test_a_cancel_and_a_finish_have_one_winner(tenant: str) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    winners = Counter[str]()
    for _ in range(20):
        lease = start(tenant, ask(model, dataset))

        def cancel(job: str = lease.id) -> str:
            with transaction() as session:
                return jobs.cancel(session, tenant, job).state

        def finish(lease: object = lease) -> None:
            with transaction() as session:
                attempts.finish(session, lease, make_verdict(), make_artifacts())

        cancelled, _ = at_once(cancel, finish)
        with transaction() as session:
            shown = jobs.get(session, tenant, lease.id)
            endings = session.scalars(
                select(EventRow.type).where(EventRow.subject_id == lease.id, EventRow.type != "job.running")
            ).all()
        assert endings == [f"job.{shown.state}"]
        # Whoever was told that the job is being cancelled sees it cancelled.
        assert (shown.state == "succeeded") == isinstance(cancelled, ModelpressError)
        assert bool(shown.artifacts) == (shown.state == "succeeded")
        winners[shown.state] += 1
    assert sum(winners.values()) == 20


def start(tenant: str, asked: JobCreate) -> object:
    with transaction() as session:
        jobs.create(session, tenant, asked)
    with transaction() as session:
        claim = attempts.claim(session, "one")
    assert claim is not None
    return claim.lease


def test_a_cancel_in_the_claim_window_never_leaves_a_running_job_unaware(tenant: str) -> None:
    model, dataset = make_model(tenant), make_dataset(tenant)
    for _ in range(20):
        with transaction() as session:
            job = jobs.create(session, tenant, ask(model, dataset)).id

        def cancel(job: str = job) -> str:
            with transaction() as session:
                return jobs.cancel(session, tenant, job).state

        def claim() -> object:
            with transaction() as session:
                return attempts.claim(session, "one")

        state, claimed = at_once(cancel, claim)
        if state == "cancelled":
            assert claimed is None
        else:
            with transaction() as session:
                assert jobs.get(session, tenant, job).cancel_requested
                attempts.cancelled(session, claimed.lease)


def test_a_sweep_never_takes_a_job_that_was_just_claimed_anew(tenant: str) -> None:
    """The reaper that paused between looking and writing (Airflow PR 17846)."""
    make_job(tenant)
    with transaction() as session:
        attempts.claim(session, "one")
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    for _ in range(10):
        epochs = [epoch for epoch in at_once(*[swept_and_claimed] * 3) if epoch]
        with transaction() as session:
            row = session.scalars(select(JobRow)).one()
            assert epochs == [row.epoch]
            assert (row.state, row.worker_losses) == ("running", 1)
            session.execute(text("UPDATE jobs SET worker_losses = 0, run_after = now()"))
            session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'"))


def swept_and_claimed() -> int | None:
    with transaction() as session:
        sweeps.sweep(session)
    with transaction() as session:
        claim = attempts.claim(session, "two")
    return claim.lease.epoch if claim else None


def test_models_are_inspected_once_each(tenant: str) -> None:
    made = [make_model(tenant, ready=False) for _ in range(12)]

    def work() -> list[str]:
        claimed = []
        for _ in range(6):
            with transaction() as session:
                claim = inspections.claim(session, "one")
            claimed += [claim.lease.id] if claim else []
        return claimed

    claimed = [model for results in at_once(work, work, work) for model in results]
    assert sorted(claimed) == sorted(made)


def test_one_job_for_one_key_however_often_it_is_sent(tenant: str) -> None:
    asked = ask(make_model(tenant), make_dataset(tenant))

    def post() -> object:
        with transaction() as session:
            stored = idempotency.begin(session, tenant, "key", "request")
            if stored is None:
                job = jobs.create(session, tenant, asked)
                idempotency.finish(session, tenant, "key", status=202, headers={}, body=job.id)
                return job.id
            return stored.body

    answers = at_once(*[post] * 8)
    with transaction() as session:
        made = session.scalars(select(JobRow.id)).all()
    assert len(made) == 1
    assert {answer for answer in answers if isinstance(answer, str)} == {made[0]}
    refused = [answer for answer in answers if isinstance(answer, ModelpressError)]
    assert {error.code for error in refused} <= {"idempotency_in_flight"}
    assert post() == made[0]


def test_dispatchers_send_each_message_once(tenant: str) -> None:
    for _ in range(20):
        make_job(tenant)
    sent: list[str] = []

    def drain() -> int:
        total = 0
        while True:
            with transaction() as session:
                number = outbox.drain(session, lambda task, subject: sent.append(f"{task} {subject}"), limit=7)
            total += number
            if not number:
                return total

    at_once(drain, drain, drain)
    drain()
    assert len(sent) == len(set(sent)) == 60


def test_a_model_is_not_deleted_under_a_job_that_is_being_made(tenant: str) -> None:
    dataset = make_dataset(tenant)
    for _ in range(10):
        model = make_model(tenant)

        def create(model: str = model) -> None:
            with transaction() as session:
                jobs.create(session, tenant, ask(model, dataset))

        def delete(model: str = model) -> None:
            with transaction() as session:
                models.delete(session, tenant, model)

        created, deleted = at_once(create, delete)
        with transaction() as session:
            state = session.get_one(ModelRow, model).state
        assert (state == "deleted") == (deleted is None)
        assert isinstance(created, ModelpressError) == (deleted is None)


def test_many_processes_make_one_tenant(database: str) -> None:
    def ensure() -> str:
        with transaction() as session:
            return sign_in.ensure_tenant(session)

    assert len(set(at_once(*[ensure] * 6))) == 1


def test_a_link_is_used_by_one_only(tenant: str) -> None:
    with transaction() as session:
        link = sign_in.create_link(session, tenant)

    def enter() -> object:
        with transaction() as session:
            return sign_in.open_session(session, link=link)

    results = at_once(*[enter] * 6)
    assert sum(isinstance(result, tuple) for result in results) == 1
