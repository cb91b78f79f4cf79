"""What every task with a runner does: hold the lease, start, watch, and write down an end without an answer."""

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core.database.session import transaction
from core.errors import ModelpressError
from core.messages import Message, Request, StagedFile
from core.resources.shape import Failure
from core.services import leases
from core.services.files import ClaimedFile
from core.services.leases import Lease, LeaseLost
from workers import presence
from workers.confinement import Bounds
from workers.ending import LIMITS, End, Outcome
from workers.failures import failure_of_end, failure_of_error
from workers.heart import Heart
from workers.lines import Violation
from workers.sandbox import runner_program
from workers.staging import Run
from workers.supervise import Ears, Limits, Supervision

Fail = Callable[[Session, Lease, Failure], None]
_RETRY_SECONDS = 0.5
_log = structlog.get_logger(__name__)


@final
@dataclass(frozen=True)
class Attendance:
    """A lease that this worker holds, its heart, and how a failure of its subject is written down."""

    lease: Lease
    heart: Heart
    fail: Fail

    def order(self) -> End | None:
        """Why the runner must stop now, if it must."""
        return self.heart.order() or (End.DRAINED if presence.draining.is_set() else None)

    def write(self, action: Callable[[Session], None]) -> None:
        """Commit `action`, again while the database is away; raises `LeaseLost` once the lease may be another's."""
        while self.heart.order() is not End.LOST:
            try:
                with transaction() as session:
                    action(session)
            except OperationalError as error:
                _log.warning("write_failed", subject=self.lease.id, error=str(error))
                time.sleep(_RETRY_SECONDS)
            else:
                return
        raise LeaseLost(self.lease.id)


def attend(lease: Lease, since: float, *, fail: Fail, work: Callable[[Attendance], None]) -> None:
    """Do the work on a leased subject; whatever goes wrong, the lease is given back with a reason, or was lost."""
    with presence.busy_with(lease.id), Heart(lease, since) as heart:
        attendance = Attendance(lease, heart, fail)
        try:
            _try(attendance, work)
        except LeaseLost:
            _log.warning("lease_lost", subject=lease.id, epoch=lease.epoch)


def watch(attendance: Attendance, run: Run, request: Request, *, limits: Limits, ears: Ears) -> Outcome:
    """Have a runner answer the request, and watch it to its end."""
    box = presence.sandbox()
    run.request.write_text(request.model_dump_json(), encoding="utf-8")
    program = runner_program(box.workdir(run))
    inputs = sum(path.stat().st_size for path in run.inputs)
    started = box.start(run, program, Bounds(limits.memory_bytes, limits.disk_bytes, inputs))
    _log.info("runner_started", subject=attendance.lease.id, epoch=attendance.lease.epoch, pid=started.process.pid)
    return Supervision(started, run, limits=limits, ears=ears).watch()


def give_back(attendance: Attendance, outcome: Outcome) -> None:
    """Write down an end without an answer."""
    lease, end = attendance.lease, outcome.end
    if end is End.LOST:
        raise LeaseLost(lease.id)
    if end is End.DRAINED:
        attendance.write(lambda session: leases.release(session, lease))
    elif end in LIMITS:
        failure = failure_of_end(end, outcome.detail)
        attendance.write(lambda session: attendance.fail(session, lease, failure))
    else:
        reason = " ".join((outcome.detail, *outcome.errors.strip().splitlines()[-1:]))
        attendance.write(lambda session: leases.lose(session, lease, reason[:1000]))


def staged_files(run: Run, sources: Sequence[ClaimedFile], first: int = 0) -> tuple[StagedFile, ...]:
    """The sources as the runner finds them; `first` is the position of theirs among the inputs of the run."""
    paths = presence.sandbox().inputs(run)[first : first + len(sources)]
    return tuple(
        StagedFile(path=path, filename=source.filename, sha256=source.sha256, bytes=source.bytes)
        for path, source in zip(paths, sources, strict=True)
    )


def deaf(message: Message) -> bool:
    """Hears everything and keeps nothing: an inspection has nobody to tell how far it is."""
    del message
    return True


def _try(attendance: Attendance, work: Callable[[Attendance], None]) -> None:
    lease = attendance.lease
    try:
        work(attendance)
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001  (the edge of a task)
        failure = _failure_of(error)
        if failure is None:
            _log.exception("attempt_failed", subject=lease.id)
            reason = f"{type(error).__name__}: {error}"[:1000]
            attendance.write(lambda session: leases.lose(session, lease, reason))
        else:
            attendance.write(lambda session: attendance.fail(session, lease, failure))


def _failure_of(error: Exception) -> Failure | None:
    if isinstance(error, Violation):
        return failure_of_end(End.VIOLATED, str(error))
    if isinstance(error, ModelpressError):
        # A store that does not answer may answer the next attempt.
        return None if error.code == "unavailable" else failure_of_error(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failure_of_end(End.NO_SPACE, f"The worker's disk is full: {error}.")
    return None
