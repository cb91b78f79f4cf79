"""The task `run_job`: takes the fairest waiting job, has a runner do it, and writes down how it ended."""

from dataclasses import replace

import structlog

from core.database.session import transaction
from core.errors import ModelpressError
from core.messages import CheckpointMessage, ErrorMessage, JobDone, LogMessage
from core.services import attempts
from core.services.attempts import JobClaim, StagedCheckpoint
from core.settings import settings
from core.storage.blobs import Blobs, open_blobs
from workers import presence, results
from workers.attend import Attendance, attend, give_back, watch
from workers.ending import End, Outcome
from workers.failures import failure_of_answer
from workers.heart import boot_time
from workers.lines import Violation
from workers.reporter import Reporter
from workers.requests import request_for, sources_of
from workers.staging import Run, fetch_ahead, staged
from workers.supervise import Ears, Limits

_log = structlog.get_logger(__name__)


def run_job(subject_id: str) -> None:
    """Do one waiting job, the fairest and not necessarily `subject_id`; do nothing when none waits."""
    del subject_id
    if presence.draining.is_set():
        return
    since = boot_time()
    with transaction() as session:
        claim = attempts.claim(session, presence.WORKER_ID)
    if claim is not None:
        attend(claim.lease, since, fail=attempts.fail, work=lambda attendance: _work(attendance, claim))


def _work(attendance: Attendance, claim: JobClaim) -> None:
    blobs = open_blobs(settings().storage_url)
    claim, warning = _with_checkpoint(claim, blobs)
    with staged(sources_of(claim), blobs) as run:

        def take(message: CheckpointMessage) -> StagedCheckpoint | None:
            return _take(run, message, blobs.of_area("checkpoints"))

        with Reporter(claim.lease, attendance.heart, claim.keys, take) as reporter:
            if warning is not None:
                reporter.hear(warning)
            outcome = _watch(attendance, claim, run, reporter)
        reporter.check()
        _conclude(attendance, run, outcome, reporter, blobs)


def _watch(attendance: Attendance, claim: JobClaim, run: Run, reporter: Reporter) -> Outcome:
    def order() -> End | None:
        reporter.check()
        return attendance.order()

    asked = claim.request.limits
    limits = Limits(
        wall_seconds=asked.minutes * 60,
        stall_seconds=settings().stall_seconds,
        memory_bytes=asked.memory_bytes,
        disk_bytes=settings().scratch_bytes,
    )
    outcome = watch(attendance, run, request_for(claim, run), limits=limits, ears=Ears(reporter.hear, order))
    if outcome.errors and outcome.end not in (End.LOST, End.DRAINED, End.CANCELLED):
        reporter.hear(LogMessage(level="warning", text=outcome.errors[-4000:]))
    return outcome


def _with_checkpoint(claim: JobClaim, blobs: Blobs) -> tuple[JobClaim, LogMessage | None]:
    """The claim, without a checkpoint whose files cannot be had: then the job starts over, and says why."""
    if claim.resume is None:
        return claim, None
    try:
        fetch_ahead((*claim.resume.finished, *claim.resume.partial), blobs)
    except ModelpressError as error:
        text = f"Starting over, since the checkpoint cannot be had: {error.detail}"
        return replace(claim, resume=None), LogMessage(level="warning", text=text)
    return claim, None


def _take(run: Run, message: CheckpointMessage, blobs: Blobs) -> StagedCheckpoint | None:
    try:
        return results.take(run, message, blobs)
    except (ModelpressError, OSError) as error:
        # A job does not fail for want of a checkpoint.
        _log.warning("checkpoint_not_kept", step=message.step, error=str(error))
        return None


def _conclude(attendance: Attendance, run: Run, outcome: Outcome, reporter: Reporter, blobs: Blobs) -> None:
    lease, answer = attendance.lease, outcome.answer
    if outcome.end is End.CANCELLED:
        attendance.write(lambda session: attempts.cancelled(session, lease))
    elif outcome.end is not End.ANSWERED:
        give_back(attendance, outcome)
    elif isinstance(answer, JobDone):
        verdict, kept = answer.verdict, results.keep(run.out, reporter.artifacts, blobs)
        attendance.write(lambda session: attempts.finish(session, lease, verdict, kept))
    elif isinstance(answer, ErrorMessage):
        failure = failure_of_answer(answer)
        attendance.write(lambda session: attempts.fail(session, lease, failure))
    else:
        raise Violation("The runner answered another question than was asked.")
