"""The live stream of a job: numbered without gaps, so that a reader can resume after the last number it saw."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.tables import JobRow, Json, StreamRow
from core.resources.job import StreamEvent
from core.services.tenancy import get_owned, owned
from core.states import TERMINAL

CHANNEL = "modelpress_stream"
StreamType = Literal["job.state", "job.progress", "metric", "log"]


def append(session: Session, job: JobRow, stream_type: StreamType, payloads: Sequence[Json]) -> None:
    """Adds events to the stream of a job whose row the caller has locked, and wakes the readers on commit."""
    for payload in payloads:
        job.stream_seq += 1
        session.add(
            StreamRow(
                job_id=job.id, seq=job.stream_seq, tenant_id=job.tenant_id, type=stream_type, payload=dict(payload)
            )
        )
    session.execute(select(func.pg_notify(CHANNEL, job.id)))


def append_state(session: Session, job: JobRow, **more: object) -> None:
    """Tells the readers of the state that the job is in now."""
    append(session, job, "job.state", [{"state": job.state, "attempt": job.attempt, "error": job.error, **more}])


def after(
    session: Session,
    tenant: str,
    job: str,
    seq: int,
    *,
    limit: int = 500,
    types: Sequence[StreamType] | None = None,
) -> list[StreamEvent]:
    """Events with a number above `seq`, oldest first; raises `not_found`."""
    get_owned(session, JobRow, tenant, job)
    statement = owned(StreamRow, tenant).where(StreamRow.job_id == job, StreamRow.seq > seq)
    if types is not None:
        statement = statement.where(StreamRow.type.in_(types))
    return [_show(row) for row in session.scalars(statement.order_by(StreamRow.seq).limit(limit))]


def is_over(session: Session, tenant: str, job: str) -> bool:
    """Whether the job is finished, so that its stream grows no more; raises `not_found`."""
    return get_owned(session, JobRow, tenant, job).state in TERMINAL


def last_lines(session: Session, tenant: str, job: str, *, limit: int = 500) -> list[StreamEvent]:
    """The newest lines of the log, oldest first; raises `not_found`."""
    get_owned(session, JobRow, tenant, job)
    statement = owned(StreamRow, tenant).where(StreamRow.job_id == job, StreamRow.type == "log")
    rows = session.scalars(statement.order_by(StreamRow.seq.desc()).limit(limit)).all()
    return [_show(row) for row in reversed(rows)]


def _show(row: StreamRow) -> StreamEvent:
    return StreamEvent(seq=row.seq, type=row.type, payload=row.payload, created_at=row.created_at)
