"""How work ends, well or badly, or goes back to wait. The caller holds the row's lock; each of these tells the world.

Every function moves one row along `core.states`, clears its lease and writes stream, event and deliveries in the
transaction of its caller.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from core.database.tables import DatasetRow, JobRow, Json, ModelRow, StepRow
from core.errors import CATALOGUE, ModelpressError
from core.queue import enqueue
from core.resources.shape import Failure
from core.services import checkpoints, datasets, events, models, stream
from core.settings import settings
from core.states import JOB_MOVES, InspectionState, JobState, StepState

LeasedRow = JobRow | ModelRow | DatasetRow

_LEFT_RUNNING = {
    JobState.SUCCEEDED: StepState.SUCCEEDED,
    JobState.FAILED: StepState.FAILED,
    JobState.CANCELLED: StepState.SKIPPED,
}


def move_job(job: JobRow, target: JobState) -> None:
    """Changes the state of a job; raises `conflict` for a move that is not in the table."""
    if target not in JOB_MOVES[JobState(job.state)]:
        raise ModelpressError("conflict", f"A {job.state} job cannot become {target}.")
    job.state = target


def end_job(session: Session, job: JobRow, state: JobState, failure: Failure | None = None) -> None:
    """The job reaches a final state."""
    move_job(job, state)
    job.finished_at = func.now()
    job.error = _dump(failure) if failure else None
    _let_go(job)
    _close_steps(session, job, _LEFT_RUNNING[state])
    checkpoints.drop_at_end(session, job)
    stream.append_state(session, job)
    summary = {"name": job.name, "model": job.model_id, "attempt": job.attempt, **_outcome(job)}
    events.emit(session, f"job.{state}", job, state=state, summary=summary)


def end_inspection(
    session: Session, row: ModelRow | DatasetRow, failure: Failure | None, *, silent: bool = False
) -> None:
    """The inspection has an answer: `ready`, or `rejected` with the failure; `silent` where that is no news."""
    row.state = InspectionState.REJECTED if failure else InspectionState.READY
    row.error = _dump(failure) if failure else None
    _let_go(row)
    if silent:
        return
    if isinstance(row, ModelRow):
        kind, summary = "model", models.summary_of(row)
    else:
        kind, summary = "dataset", datasets.summary_of(row)
    events.emit(session, f"{kind}.{row.state}", row, state=row.state, summary=summary)


def requeue(session: Session, row: LeasedRow, delay_seconds: float = 0) -> None:
    """Lets another worker have it, at once or after a delay (the sweep then sends the message)."""
    row.run_after = func.now() + timedelta(seconds=delay_seconds)
    _let_go(row)
    if isinstance(row, JobRow):
        move_job(row, JobState.QUEUED)
        row.progress = None
        stream.append_state(session, row)
    if not delay_seconds:
        enqueue(session, "run_job" if isinstance(row, JobRow) else "inspect", row.id)


def lose(session: Session, row: LeasedRow, reason: str) -> None:
    """A worker or runner died without a word: another try, or the end after as many losses as are allowed."""
    row.worker_losses += 1
    if isinstance(row, JobRow) and row.cancel_requested_at is not None:
        end_job(session, row, JobState.CANCELLED)
    elif row.worker_losses >= settings().max_worker_losses:
        _give_up(session, row, reason)
    else:
        # The first loss may be an accident of the machine; after the second, give it time to recover.
        requeue(session, row, 0 if row.worker_losses == 1 else settings().second_loss_delay_seconds)


def _give_up(session: Session, row: LeasedRow, reason: str) -> None:
    failure = Failure(
        code="worker_lost",
        detail=f"{row.worker_losses} attempts ended without a word from their worker; the last one: {reason}",
        hint=CATALOGUE["worker_lost"].hint,
        retryable=True,
    )
    if isinstance(row, JobRow):
        end_job(session, row, JobState.FAILED, failure)
    else:
        end_inspection(session, row, failure)


def _let_go(row: LeasedRow) -> None:
    row.lease_owner = row.lease_expires_at = None


def _close_steps(session: Session, job: JobRow, left_running: StepState) -> None:
    mine = update(StepRow).where(StepRow.job_id == job.id).execution_options(synchronize_session=False)
    session.execute(mine.where(StepRow.state == StepState.RUNNING).values(state=left_running))
    session.execute(mine.where(StepRow.state == StepState.PENDING).values(state=StepState.SKIPPED))


def _dump(failure: Failure) -> Json:
    """As JSON; what a runner said may hold a NUL, which PostgreSQL cannot store."""
    plain = failure.model_dump(mode="json")
    return {name: value.replace("\x00", "") if isinstance(value, str) else value for name, value in plain.items()}


def _outcome(job: JobRow) -> dict[str, Any]:
    return {"headline": job.headline} if job.headline else {"error": job.error} if job.error else {}
