"""Jobs as users see them, from their rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.tables import ArtifactRow, DatasetRow, JobRow, ModelRow, StepRow
from core.resources.job import (
    Artifact,
    ArtifactFile,
    Job,
    JobCreate,
    JobHeadline,
    JobSummary,
    Progress,
    Step,
)
from core.services.inspected import failure_of
from core.services.tenancy import owned
from core.states import JobState, StepState
from core.verdict import Verdict


def show_job(session: Session, row: JobRow) -> Job:
    """A job with its steps, its verdict and the manifest of its artifacts."""
    summary = summarise(session, [row])[0]
    request = request_of(row)
    steps = session.scalars(owned(StepRow, row.tenant_id).where(StepRow.job_id == row.id).order_by(StepRow.position))
    return Job(
        **dict(summary),
        seed=row.seed,
        recipe=request.recipe,
        target=request.target,
        constraints=request.constraints,
        limits=request.limits,
        attempt=row.attempt,
        worker_losses=row.worker_losses,
        retry_of=row.retry_of,
        plan=request.plan,
        cancel_requested=row.cancel_requested_at is not None,
        webhook_url=row.webhook_url,
        steps=tuple(_show_step(step) for step in steps),
        verdict=Verdict.model_validate(row.verdict) if row.verdict else None,
        artifacts=tuple(show_artifact(artifact) for artifact in final_artifacts(session, row)),
    )


def summarise(session: Session, rows: Sequence[JobRow]) -> list[JobSummary]:
    """Jobs as a list shows them, all of one tenant."""
    if not rows:
        return []
    tenant = rows[0].tenant_id
    models = _names(session, ModelRow, tenant, {row.model_id for row in rows})
    datasets = _names(session, DatasetRow, tenant, {row.dataset_id for row in rows if row.dataset_id})
    positions = _positions(session, [row.id for row in rows if row.state == JobState.QUEUED])
    return [_summarise(row, models, datasets, positions) for row in rows]


def request_of(row: JobRow) -> JobCreate:
    """What was asked for, as it was asked."""
    return JobCreate(
        model=row.model_id,
        dataset=row.dataset_id,
        name=row.name,
        metadata=row.user_metadata,
        seed=row.seed,
        webhook_url=row.webhook_url,
        **row.request,
    )


def headline_of(verdict: Verdict) -> JobHeadline:
    """The few numbers of a verdict that a list shows; the speedup is that of the first batch size."""
    speedup = verdict.change.speedup[0] if verdict.change.speedup else None
    before, after = verdict.original.quality, verdict.result.quality
    return JobHeadline(
        satisfied=verdict.satisfied,
        sentence=verdict.sentence,
        size_ratio=verdict.change.size_ratio,
        speedup=speedup.ratio if speedup else None,
        speedup_significant=speedup.significant if speedup else False,
        quality_metric=after.metric if after else None,
        quality_before=before.value if before else None,
        quality_after=after.value if after else None,
    )


def final_artifacts(session: Session, row: JobRow) -> Sequence[ArtifactRow]:
    """The artifacts that a finished job keeps, oldest first."""
    statement = owned(ArtifactRow, row.tenant_id).where(ArtifactRow.job_id == row.id, ArtifactRow.state == "final")
    return session.scalars(statement.order_by(ArtifactRow.id)).all()


def show_artifact(row: ArtifactRow) -> Artifact:
    """One artifact; the name of several files is that of the archive they are sent in."""
    return Artifact(
        id=row.id,
        created_at=row.created_at,
        job=row.job_id,
        kind=row.kind,
        filename=row.files[0]["filename"] if len(row.files) == 1 else f"{row.kind.removesuffix('.zip')}.zip",
        sha256=row.sha256,
        bytes=row.bytes,
        files=tuple(ArtifactFile.model_validate(file) for file in row.files),
        content_url=f"/v1/artifacts/{row.id}/content",
    )


def _summarise(
    row: JobRow, models: Mapping[str, str], datasets: Mapping[str, str], positions: Mapping[str, int]
) -> JobSummary:
    running = row.state == JobState.RUNNING
    return JobSummary(
        id=row.id,
        created_at=row.created_at,
        name=row.name,
        metadata=row.user_metadata,
        state=JobState(row.state),
        model=row.model_id,
        model_name=models[row.model_id],
        dataset=row.dataset_id,
        dataset_name=datasets[row.dataset_id] if row.dataset_id else None,
        methods=tuple(step["method"] for step in row.request["recipe"]["steps"]),
        progress=Progress.model_validate(row.progress) if running and row.progress else None,
        queue_position=positions.get(row.id),
        headline=JobHeadline.model_validate(row.headline) if row.headline else None,
        error=failure_of(row),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _names(
    session: Session, row_class: type[ModelRow] | type[DatasetRow], tenant: str, identifiers: set[Any]
) -> dict[str, str]:
    statement = select(row_class.id, row_class.name).where(row_class.tenant_id == tenant, row_class.id.in_(identifiers))
    return {row.id: row.name for row in session.execute(statement)}


def _positions(session: Session, queued: Sequence[str]) -> dict[str, int]:
    """The place in the queue of each waiting job, counted over all tenants from 1."""
    if not queued:
        return {}
    place = func.row_number().over(order_by=(JobRow.priority, JobRow.created_at, JobRow.id)).label("place")
    waiting = select(JobRow.id, place).where(JobRow.state == JobState.QUEUED).subquery()
    rows = session.execute(select(waiting.c.id, waiting.c.place).where(waiting.c.id.in_(queued)))
    return {row.id: row.place for row in rows}


def _show_step(row: StepRow) -> Step:
    return Step(
        id=row.id,
        position=row.position,
        name=row.name,
        state=StepState(row.state),
        seconds=row.seconds,
        message=row.message,
        quality=row.quality,
    )
