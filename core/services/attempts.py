"""Attempts at jobs, on behalf of workers; every write is refused once the lease is lost."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.database.tables import (
    ArtifactRow,
    DatasetRow,
    JobRow,
    Json,
    MetricRow,
    ModelRow,
    StepRow,
)
from core.description import DatasetSpec
from core.errors import ModelpressError
from core.ids import new_id
from core.messages import LogMessage, MetricMessage, ProgressMessage, StepMessage
from core.resources.job import JobCreate
from core.resources.shape import Failure
from core.services import checkpoints, datasets, endings, events, inspected, stream
from core.services.checkpoints import Resumption
from core.services.files import ClaimedFile, claimed_files
from core.services.job_views import headline_of, request_of
from core.services.leases import Lease, guard_job, take
from core.services.tenancy import get_owned
from core.states import JobState, StepState
from core.verdict import Verdict


@dataclass(frozen=True, slots=True)
class JobClaim:
    """All that a worker needs for one attempt."""

    lease: Lease
    request: JobCreate
    seed: int
    attempt: int
    model: tuple[ClaimedFile, ...]
    dataset: tuple[ClaimedFile, ...]
    dataset_spec: DatasetSpec | None
    # The other models that the recipe names, by id.
    others: dict[str, tuple[ClaimedFile, ...]]
    # The `plan.json` that is followed.
    plan: tuple[ClaimedFile, ...]
    # What leads to the state after each step, and from where the attempt can go on.
    keys: tuple[str, ...]
    resume: Resumption | None


@dataclass(frozen=True, slots=True)
class StagedArtifactFile:
    """One file that is already a blob."""

    filename: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class StagedCheckpoint:
    """Files that are already blobs: what is there after a step, or the state inside one."""

    step: int
    finished: bool
    files: tuple[StagedArtifactFile, ...]


@dataclass(frozen=True, slots=True)
class StagedArtifact:
    """Files that are already blobs and wait for the end of the job to count."""

    kind: str
    files: tuple[StagedArtifactFile, ...]


def claim(session: Session, worker: str) -> JobClaim | None:
    """Leases the fairest waiting job: of the tenant with the fewest running ones, then by priority and age."""
    identifier = session.scalars(_fairest()).one_or_none()
    if identifier is None:
        return None
    job = session.get_one(JobRow, identifier, populate_existing=True)
    endings.move_job(job, JobState.RUNNING)
    lease = take(job, "job", worker)
    job.progress = None
    job.started_at = job.started_at or func.now()
    session.flush()
    try:
        found = _claimed(session, job, lease)
    except ValidationError as error:
        # Asked in the words of another version; left in the queue it would be claimed for ever.
        failure = Failure(code="invalid_request", detail=f"This version cannot read the job: {error}"[:1000])
        endings.end_job(session, job, JobState.FAILED, failure)
        return None
    fresh = {"state": StepState.PENDING, "seconds": None, "message": "", "quality": None}
    session.execute(update(StepRow).where(StepRow.job_id == job.id).values(fresh))
    stream.append_state(session, job)
    summary = {"name": job.name, "model": job.model_id, "attempt": job.attempt}
    events.emit(session, "job.running", job, state=job.state, summary=summary)
    return found


def record_progress(session: Session, lease: Lease, message: ProgressMessage) -> None:
    """Keeps how far the job is; raises LeaseLost."""
    job = guard_job(session, lease)
    job.progress = _plain(message)
    job.progress_at = func.now()
    stream.append(session, job, "job.progress", [job.progress])


def record_step(session: Session, lease: Lease, message: StepMessage) -> None:
    """Keeps what became of a step; raises LeaseLost."""
    job = guard_job(session, lease)
    step = _plain(message)
    values = {name: step[name] for name in ("name", "state", "seconds", "message", "quality")}
    row = {"id": new_id("stp"), "tenant_id": job.tenant_id, "job_id": job.id, "position": message.position}
    session.execute(
        insert(StepRow)
        .values(**row, **values)
        .on_conflict_do_update(index_elements=["job_id", "position"], set_=values)
    )
    job.progress_at = func.now()
    stream.append_state(session, job, step=step)


def record_metrics(session: Session, lease: Lease, messages: Sequence[MetricMessage]) -> None:
    """Keeps measured numbers under the attempt's epoch; raises LeaseLost."""
    job = guard_job(session, lease)
    session.add_all(
        MetricRow(tenant_id=job.tenant_id, job_id=job.id, epoch=lease.epoch, **message.model_dump(exclude={"kind"}))
        for message in messages
    )
    stream.append(session, job, "metric", [_plain(message) for message in messages])


def record_logs(session: Session, lease: Lease, messages: Sequence[LogMessage]) -> None:
    """Adds lines to the log, which lives in the job's stream; raises LeaseLost."""
    job = guard_job(session, lease)
    stream.append(session, job, "log", [_plain(message) for message in messages])


def record_checkpoint(session: Session, lease: Lease, keys: Sequence[str], kept: StagedCheckpoint) -> None:
    """Keeps from where the job can go on; raises LeaseLost."""
    job = guard_job(session, lease)
    checkpoints.record(
        session,
        job,
        step=kept.step,
        finished=kept.finished,
        key=keys[kept.step],
        files=_manifest(kept.files),
    )


def finish(session: Session, lease: Lease, verdict: Verdict, artifacts: Sequence[StagedArtifact]) -> None:
    """The job succeeded: its verdict and artifacts count from now on. Raises LeaseLost.

    A job that was to be cancelled keeps nothing and is cancelled. Raises `protocol_violation` for numbers that are not
    finite.
    """
    job = guard_job(session, lease)
    if job.cancel_requested_at is not None:
        endings.end_job(session, job, JobState.CANCELLED)
        return
    rows = [_artifact_row(job, artifact) for artifact in artifacts]
    session.add_all(rows)
    plan = next((row.id for row in rows if row.kind == "plan.json"), verdict.reproduce.plan)
    shown = verdict.model_copy(update={"reproduce": verdict.reproduce.model_copy(update={"plan": plan})})
    job.verdict = _finite(shown)
    job.headline = _finite(headline_of(shown))
    endings.end_job(session, job, JobState.SUCCEEDED)


def fail(session: Session, lease: Lease, failure: Failure) -> None:
    """The job failed for good; or it is cancelled, if that was asked for. Raises LeaseLost."""
    job = guard_job(session, lease)
    if job.cancel_requested_at is not None:
        endings.end_job(session, job, JobState.CANCELLED)
    else:
        endings.end_job(session, job, JobState.FAILED, failure)


def cancelled(session: Session, lease: Lease) -> None:
    """The runner was stopped because a user asked for it; raises LeaseLost."""
    endings.end_job(session, guard_job(session, lease), JobState.CANCELLED)


def _fairest() -> Select[str]:
    # The id alone: sorting ten thousand whole rows would take three times as long.
    running = (
        select(JobRow.tenant_id, func.count().label("number"))
        .where(JobRow.state == JobState.RUNNING)
        .group_by(JobRow.tenant_id)
        .subquery()
    )
    return (
        select(JobRow.id)
        .outerjoin(running, running.c.tenant_id == JobRow.tenant_id)
        .where(JobRow.state == JobState.QUEUED, JobRow.run_after <= func.now())
        .order_by(func.coalesce(running.c.number, 0), JobRow.priority, JobRow.created_at, JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=JobRow)
    )


def _claimed(session: Session, job: JobRow, lease: Lease) -> JobClaim:
    model = get_owned(session, ModelRow, job.tenant_id, job.model_id)
    dataset = get_owned(session, DatasetRow, job.tenant_id, job.dataset_id) if job.dataset_id else None
    request = request_of(job)
    plan = get_owned(session, ArtifactRow, job.tenant_id, request.plan) if request.plan else None
    keys = checkpoints.keys_of(request, model, dataset, plan)
    others = sorted(set(request.recipe.references().values()))
    return JobClaim(
        lease=lease,
        request=request,
        seed=job.seed,
        attempt=job.attempt,
        model=claimed_files(model.files),
        dataset=claimed_files(dataset.files) if dataset else (),
        dataset_spec=datasets.spec_of(dataset) if dataset else None,
        others={each: claimed_files(get_owned(session, ModelRow, job.tenant_id, each).files) for each in others},
        plan=claimed_files(plan.files) if plan else (),
        keys=keys,
        resume=checkpoints.find(session, job, keys),
    )


def _artifact_row(job: JobRow, artifact: StagedArtifact) -> ArtifactRow:
    return ArtifactRow(
        id=new_id("art"),
        tenant_id=job.tenant_id,
        job_id=job.id,
        epoch=job.epoch,
        kind=artifact.kind,
        state="final",
        **inspected.columns_of(_manifest(artifact.files)),
    )


def _manifest(files: Sequence[StagedArtifactFile]) -> list[Json]:
    return [{"filename": file.filename, "sha256": file.sha256, "bytes": file.bytes} for file in files]


def _plain(message: BaseModel) -> Json:
    """A message as JSON for the stream; numbers that are not finite become null there."""
    plain: Json = json.loads(message.model_dump_json(exclude={"kind"}))
    return plain


def _finite(shown: BaseModel) -> Json:
    plain = shown.model_dump(mode="json")
    try:
        json.dumps(plain, allow_nan=False)
    except ValueError as error:
        raise ModelpressError("protocol_violation", "The verdict holds a number that is not finite.") from error
    return plain
