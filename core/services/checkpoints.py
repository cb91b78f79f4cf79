"""Checkpoints: what led to them, which one a job goes on from, and when they are no longer needed.

They are found by what they follow from: equal beginnings of two recipes, on the same model, data, seed, target,
constraints, plan and versions, lead to the same bytes on machines of one kind.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from core.database.tables import ArtifactRow, CheckpointRow, DatasetRow, JobRow, Json, MetricRow, ModelRow
from core.resources.job import JobCreate
from core.services.files import ClaimedFile, claimed_files
from core.services.system import host, runner_threads
from core.services.tenancy import owned
from core.settings import settings
from core.states import TERMINAL, InspectionState, JobState
from core.versions import versions

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a job goes on from: the steps that are done, whose checkpoints they are, and the files."""

    job: str
    steps: int
    finished: tuple[ClaimedFile, ...]
    partial: tuple[ClaimedFile, ...]


@dataclass(frozen=True, slots=True)
class Garbage:
    """Dropped checkpoints by id, and the blobs that none which is left needs."""

    ids: tuple[int, ...]
    sha256s: tuple[str, ...]


def keys_of(asked: JobCreate, model: ModelRow, dataset: DatasetRow | None, plan: ArtifactRow | None) -> tuple[str, ...]:
    """For each step of the recipe, the digest of all that decides what is there after it."""
    # Some formats are told by the names of the files.
    common = {
        "model": [model.sha256, [file["filename"] for file in model.files]],
        "dataset": [dataset.sha256, [file["filename"] for file in dataset.files], dataset.spec] if dataset else None,
        "plan": plan.sha256 if plan else None,
        "seed": asked.seed,
        "target": asked.target.model_dump(mode="json"),
        "constraints": asked.constraints.model_dump(mode="json"),
        "versions": versions(),
    }
    steps = [step.model_dump(mode="json") for step in asked.recipe.steps]
    return tuple(_digest({**common, "steps": steps[: index + 1]}) for index in range(len(steps)))


@cache
def host_kind() -> str:
    """What of this process's machine may decide a bit: its CPU, and the threads that a runner gets."""
    here = host()
    return _digest([here.cpu, here.flags, runner_threads()])


def find(session: Session, job: JobRow, keys: Sequence[str]) -> Resumption | None:
    """What the job goes on from: its own checkpoints, else the longest equal beginning of another job of the tenant."""
    kept = owned(CheckpointRow, job.tenant_id).where(CheckpointRow.dropped_at.is_(None))
    mine = session.scalars(kept.where(CheckpointRow.job_id == job.id).order_by(CheckpointRow.id)).all()
    own = [row for row in mine if row.step < len(keys) and row.key == keys[row.step]]
    if own:
        return _own(session, job, own)
    others = kept.where(CheckpointRow.key.in_(keys), CheckpointRow.finished, CheckpointRow.host == host_kind())
    found = session.scalars(others.order_by(CheckpointRow.step.desc(), CheckpointRow.id.desc()).limit(1)).first()
    return None if found is None else _adopt(session, job, found)


def record(session: Session, job: JobRow, *, step: int, finished: bool, key: str, files: list[Json]) -> None:
    """Keeps from where the job can go on, in place of what it kept inside of this step or of a later one.

    What an earlier attempt has made of later steps is there only where this one could not read it and began again.
    """
    stale = or_(~CheckpointRow.finished, CheckpointRow.step >= step)
    drop(session, CheckpointRow.job_id == job.id, stale)
    last_metric = session.scalar(select(func.max(MetricRow.id)).where(MetricRow.job_id == job.id)) or 0
    session.add(
        CheckpointRow(
            tenant_id=job.tenant_id,
            job_id=job.id,
            epoch=job.epoch,
            step=step,
            finished=finished,
            key=key,
            host=host_kind(),
            files=files,
            last_metric=last_metric,
        )
    )


def drop(session: Session, *conditions: ColumnElement[bool]) -> int:
    """Marks checkpoints that are no longer needed; gives their number."""
    marked = update(CheckpointRow).where(CheckpointRow.dropped_at.is_(None), *conditions).values(dropped_at=func.now())
    result: Any = session.execute(marked.execution_options(synchronize_session=False))
    return int(result.rowcount)


def drop_at_end(session: Session, job: JobRow) -> None:
    """A finished job keeps what its finished steps made, for others; a cancelled one keeps nothing."""
    nothing = job.state == JobState.CANCELLED or not settings().checkpoint_retention_seconds
    drop(session, CheckpointRow.job_id == job.id, *(() if nothing else (~CheckpointRow.finished,)))


def expire(session: Session, oldest: ColumnElement[Any]) -> int:
    """Drops the checkpoints of finished jobs that are older than `oldest`, and those of deleted models and data."""
    model = select(ModelRow.id).where(ModelRow.id == JobRow.model_id, ModelRow.state == InspectionState.DELETED)
    data = select(DatasetRow.id).where(DatasetRow.id == JobRow.dataset_id, DatasetRow.state == InspectionState.DELETED)
    useless = or_(CheckpointRow.created_at < oldest, model.exists(), data.exists())
    ended = select(JobRow.id).where(JobRow.id == CheckpointRow.job_id, JobRow.state.in_(TERMINAL), useless)
    return drop(session, ended.exists())


def garbage(session: Session) -> Garbage:
    """A hundred dropped checkpoints at most. A blob of theirs that is needed again meanwhile is missed by that job,
    which then starts over."""
    dropped = select(CheckpointRow).where(CheckpointRow.dropped_at.is_not(None)).order_by(CheckpointRow.id)
    rows = session.scalars(dropped.limit(_BATCH)).all()
    digests = {str(file["sha256"]) for row in rows for file in row.files}
    files = select(func.jsonb_array_elements(CheckpointRow.files).label("file"))
    living = files.where(CheckpointRow.dropped_at.is_(None)).subquery()
    digest = living.c.file.op("->>")("sha256")
    needed = set(session.scalars(select(digest).where(digest.in_(digests))))
    return Garbage(tuple(row.id for row in rows), tuple(sorted(digests - needed)))


def forget(session: Session, ids: Sequence[int]) -> None:
    """Removes dropped checkpoints whose blobs are gone."""
    session.execute(delete(CheckpointRow).where(CheckpointRow.id.in_(ids)))


def _adopt(session: Session, job: JobRow, found: CheckpointRow) -> Resumption:
    """From that of another job, which is this one's own as well from now on, for the attempts to come."""
    record(session, job, step=found.step, finished=True, key=found.key, files=found.files)
    return Resumption(found.job_id, found.step + 1, claimed_files(found.files, "checkpoints"), ())


def _own(session: Session, job: JobRow, rows: Sequence[CheckpointRow]) -> Resumption:
    """From its own: the last finished step, and the state of the one after it where that is newer."""
    finished = next((row for row in reversed(rows) if row.finished), None)
    steps = finished.step + 1 if finished else 0
    last = rows[-1]
    partial = last if not last.finished and last.step == steps else None
    _take_over_metrics(session, job, partial or finished or last)
    return Resumption(
        job.id,
        steps,
        claimed_files(finished.files, "checkpoints") if finished else (),
        claimed_files(partial.files, "checkpoints") if partial else (),
    )


def _take_over_metrics(session: Session, job: JobRow, start: CheckpointRow) -> None:
    """What was measured before the checkpoint counts on; what came after it is measured again."""
    mine = MetricRow.job_id == job.id
    session.execute(delete(MetricRow).where(mine, MetricRow.id > start.last_metric))
    session.execute(
        update(MetricRow)
        .where(mine, MetricRow.epoch >= start.epoch)
        .values(epoch=job.epoch)
        .execution_options(synchronize_session=False)
    )


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
