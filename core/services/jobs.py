"""Jobs on behalf of users: ask, look, cancel, retry."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from core.database.tables import JobModelRow, JobRow, MetricRow, StepRow
from core.errors import ModelpressError
from core.ids import new_id
from core.queue import enqueue
from core.resources.job import DryRun, Job, JobCreate, JobSummary, MetricPoint, MetricSeries
from core.resources.model import Rename
from core.resources.shape import Page
from core.services import endings, inspected, plans, stream, webhooks
from core.services.job_views import request_of, show_job, summarise
from core.services.pages import page
from core.services.tenancy import get_owned, owned
from core.states import TERMINAL, JobState, StepState

CANCEL_CHANNEL = "modelpress_cancel"
_METRICS_LIMIT = 10_000


def create(session: Session, tenant: str, asked: JobCreate) -> Job:
    """Queues a job; raises the first objection of its dry run that blocks it."""
    return show_job(session, _queue(session, tenant, asked, retry_of=None))


def plan(session: Session, tenant: str, asked: JobCreate) -> DryRun:
    """What a job would do and what speaks against it; queues nothing."""
    return plans.plan(session, tenant, asked)


def get(session: Session, tenant: str, identifier: str) -> Job:
    """One job; raises `not_found`."""
    return show_job(session, get_owned(session, JobRow, tenant, identifier))


def list_(
    session: Session,
    tenant: str,
    *,
    limit: int = 50,
    after: str | None = None,
    state: JobState | None = None,
    model: str | None = None,
) -> Page[JobSummary]:
    """Jobs, newest first."""
    statement = owned(JobRow, tenant).options(defer(JobRow.verdict))
    if state is not None:
        statement = statement.where(JobRow.state == state)
    if model is not None:
        statement = statement.where(JobRow.model_id == model)
    return page(session, statement, JobRow, limit=limit, after=after, show=lambda rows: summarise(session, rows))


def cancel(session: Session, tenant: str, identifier: str) -> Job:
    """A waiting job is cancelled at once, a running one as soon as its worker hears of it; again is no error."""
    job = get_owned(session, JobRow, tenant, identifier, lock="update")
    if job.state == JobState.QUEUED:
        endings.end_job(session, job, JobState.CANCELLED)
    elif job.state == JobState.RUNNING and job.cancel_requested_at is None:
        job.cancel_requested_at = func.now()
        stream.append_state(session, job, cancel_requested=True)
        session.execute(select(func.pg_notify(CANCEL_CHANNEL, job.id)))
    elif job.state in TERMINAL - {JobState.CANCELLED}:
        raise ModelpressError("conflict", f"The job has already {job.state}.")
    session.flush()
    return show_job(session, job)


def retry(session: Session, tenant: str, identifier: str) -> Job:
    """A new job that asks for the same, linked to this one; raises `conflict` unless this one is finished."""
    job = get_owned(session, JobRow, tenant, identifier)
    if job.state not in TERMINAL:
        raise ModelpressError("conflict", f"The job is {job.state}; only a finished job can be retried.")
    return show_job(session, _queue(session, tenant, request_of(job), retry_of=job.id))


def rename(session: Session, tenant: str, identifier: str, asked: Rename) -> Job:
    """Changes name and metadata."""
    job = get_owned(session, JobRow, tenant, identifier, lock="update")
    inspected.change(job, asked)
    session.flush()
    return show_job(session, job)


def metrics(
    session: Session, tenant: str, identifier: str, *, name: str | None = None, split: str | None = None
) -> MetricSeries:
    """What the newest attempt measured, oldest first; raises `not_found`."""
    job = get_owned(session, JobRow, tenant, identifier)
    statement = owned(MetricRow, tenant).where(MetricRow.job_id == job.id, MetricRow.epoch == job.epoch)
    if name is not None:
        statement = statement.where(MetricRow.name == name)
    if split is not None:
        statement = statement.where(MetricRow.split == split)
    rows = session.scalars(statement.order_by(MetricRow.id).limit(_METRICS_LIMIT))
    return MetricSeries(data=tuple(_show_metric(row) for row in rows))


def _queue(session: Session, tenant: str, asked: JobCreate, *, retry_of: str | None) -> JobRow:
    # Shared locks: neither can be deleted before the job that uses it is there to forbid it.
    ingredients = plans.gather(session, tenant, asked, lock="share")
    plans.check(asked, ingredients)
    steps = plans.plan_steps(asked, ingredients)
    methods = ", ".join(step.method for step in asked.recipe.steps)
    job = JobRow(
        id=new_id("job"),
        tenant_id=tenant,
        name=asked.name or f"{ingredients.model.name}, {methods}"[:200],
        user_metadata=dict(asked.metadata),
        model_id=asked.model,
        dataset_id=asked.dataset,
        retry_of=retry_of,
        request=asked.model_dump(mode="json", include={"plan", "recipe", "target", "constraints", "limits"}),
        seed=asked.seed,
        webhook_url=asked.webhook_url,
        state=JobState.QUEUED,
        stream_seq=0,
    )
    session.add(job)
    session.flush()
    session.add_all(_step_rows(job, [step.name for step in steps]))
    others = sorted({row.id for row in ingredients.others.values()})
    session.add_all(JobModelRow(tenant_id=tenant, job_id=job.id, model_id=other) for other in others)
    if asked.webhook_url is not None:
        webhooks.create_for_job(session, job, asked.webhook_url)
    stream.append_state(session, job)
    enqueue(session, "run_job", job.id)
    session.flush()
    return job


def _step_rows(job: JobRow, names: Sequence[str]) -> list[StepRow]:
    return [
        StepRow(
            id=new_id("stp"),
            tenant_id=job.tenant_id,
            job_id=job.id,
            position=position,
            name=name,
            state=StepState.PENDING,
            message="",
        )
        for position, name in enumerate(names)
    ]


def _show_metric(row: MetricRow) -> MetricPoint:
    return MetricPoint(
        name=row.name,
        value=row.value,
        unit=row.unit,
        split=row.split,
        subject=row.subject,
        step=row.step,
        at=row.at,
        conditions=row.conditions,
        created_at=row.created_at,
    )
