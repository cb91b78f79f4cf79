"""What any dispatcher does every few seconds: takes back work of dead workers, mends lost messages, throws out.

One sweep runs at a time, whichever dispatcher starts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from core.database.tables import (
    DatasetRow,
    DeliveryRow,
    IdempotencyRow,
    JobRow,
    ModelRow,
    OutboxRow,
    SessionRow,
    SignInLinkRow,
    Table,
    WorkerRow,
)
from core.description import INSPECTOR_VERSION
from core.queue import QUEUE_OF, TaskName, enqueue
from core.services import checkpoints, deliveries, endings, inspected
from core.settings import settings
from core.states import InspectionState, JobState

# Any number that nothing else locks.
_SWEEP_LOCK = 20260703
_BATCH = 100
_SENT_MESSAGES_ARE_KEPT = timedelta(hours=1)
_REASON = "its worker gave no sign of life until the lease ran out."

L = TypeVar("L", JobRow, ModelRow, DatasetRow)


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one sweep did."""

    lost_jobs: int = 0
    lost_inspections: int = 0
    sent_again: int = 0
    outdated: int = 0
    thrown_out: int = 0
    dropped: int = 0


def sweep(session: Session, messages: Mapping[str, int] | None = None) -> SweepReport:
    """One sweep. `messages` is how many messages each queue holds, None when the broker does not answer."""
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_SWEEP_LOCK))):
        return SweepReport()
    return SweepReport(
        lost_jobs=_take_back(session, JobRow, JobState.RUNNING),
        lost_inspections=_take_back(session, ModelRow, InspectionState.INSPECTING)
        + _take_back(session, DatasetRow, InspectionState.INSPECTING),
        outdated=sum(_inspect_again(session, row_class) for row_class in (ModelRow, DatasetRow)),
        sent_again=_send_again(session, messages) if messages is not None else 0,
        thrown_out=_throw_out(session),
        dropped=checkpoints.expire(session, func.now() - timedelta(seconds=settings().checkpoint_retention_seconds)),
    )


def waiting(session: Session) -> dict[TaskName, list[str]]:
    """The ids of what waits for a worker now, oldest first, at most a hundred of each."""
    jobs = select(JobRow.id).where(JobRow.state == JobState.QUEUED, JobRow.run_after <= func.now())
    due = select(DeliveryRow.id).where(*deliveries.due())
    inspections = [
        session.scalars(
            select(row_class.id)
            .where(
                row_class.state == InspectionState.INSPECTING,
                row_class.lease_owner.is_(None),
                row_class.run_after <= func.now(),
            )
            .order_by(row_class.created_at)
            .limit(_BATCH)
        ).all()
        for row_class in (ModelRow, DatasetRow)
    ]
    return {
        "run_job": list(session.scalars(jobs.order_by(JobRow.priority, JobRow.created_at).limit(_BATCH))),
        "inspect": [*inspections[0], *inspections[1]][:_BATCH],
        "deliver_webhook": list(session.scalars(due.order_by(DeliveryRow.next_attempt_at).limit(_BATCH))),
    }


def _take_back(session: Session, row_class: type[L], state: str) -> int:
    """Work whose lease ran out. A row that changes in this moment is locked, skipped, or read anew: never taken."""
    expired = (
        select(row_class)
        .where(row_class.state == state, row_class.lease_expires_at < func.now())
        .order_by(row_class.lease_expires_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    rows = session.scalars(expired.execution_options(populate_existing=True)).all()
    for row in rows:
        endings.lose(session, row, _REASON)
    session.flush()
    return len(rows)


def _inspect_again(session: Session, row_class: type[ModelRow] | type[DatasetRow]) -> int:
    """Descriptions of an older inspector are remade, when no unfinished job stands on them."""
    unfinished = JobRow.state.in_((JobState.QUEUED, JobState.RUNNING))
    used = select(JobRow.id).where(inspected.uses(row_class, row_class.id), unfinished)
    old = update(row_class).where(
        row_class.state == InspectionState.READY, row_class.inspector_version < INSPECTOR_VERSION, ~used.exists()
    )
    return _count(session, old.values(state=InspectionState.INSPECTING, worker_losses=0, run_after=func.now()))


def _send_again(session: Session, messages: Mapping[str, int]) -> int:
    """A message for each thing that waits, less those that are on their way: never more messages than waiting work."""
    counts = select(OutboxRow.queue, func.count()).where(OutboxRow.sent_at.is_(None)).group_by(OutboxRow.queue)
    unsent: dict[str, int] = dict(iter(session.execute(counts)))
    sent = 0
    for task, subjects in waiting(session).items():
        queue = QUEUE_OF[task]
        missing = max(0, len(subjects) - messages.get(queue, 0) - unsent.get(queue, 0))
        for subject in subjects[:missing]:
            enqueue(session, task, subject)
        sent += missing
    return sent


def _throw_out(session: Session) -> int:
    """Rows that have had their day."""
    now: ColumnElement[Any] = func.now()
    silent = timedelta(seconds=15 * settings().heartbeat_seconds)
    old: tuple[tuple[type[Table], ColumnElement[bool]], ...] = (
        (OutboxRow, OutboxRow.sent_at < now - _SENT_MESSAGES_ARE_KEPT),
        (IdempotencyRow, IdempotencyRow.created_at < now - timedelta(seconds=settings().idempotency_seconds)),
        (WorkerRow, WorkerRow.heartbeat_at < now - silent),
        (SignInLinkRow, SignInLinkRow.expires_at < now),
        (SessionRow, SessionRow.expires_at < now),
    )
    return sum(_count(session, delete(table).where(condition)) for table, condition in old)


def _count(session: Session, statement: Any) -> int:
    result: Any = session.execute(statement.execution_options(synchronize_session=False))
    return int(result.rowcount)
