"""The task `run_job`: takes the fairest waiting job, has a runner do it, and writes down how it ended."""

from itertools import chain

from core.database.session import transaction
from core.messages import ErrorMessage, JobDone, LogMessage, RunJob, StagedFile
from core.services import attempts
from core.services.attempts import JobClaim
from core.settings import settings
from core.storage.blobs import Blobs, open_blobs
from workers import presence, results
from workers.attend import Attendance, attend, give_back, staged_files, watch
from workers.ending import End, Outcome
from workers.failures import failure_of_answer
from workers.heart import boot_time
from workers.lines import Violation
from workers.reporter import Reporter
from workers.staging import Run, staged
from workers.supervise import Ears, Limits


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
    others = chain.from_iterable(claim.others.values())
    with staged((*claim.model, *claim.dataset, *others), blobs) as run:
        with Reporter(claim.lease, attendance.heart) as reporter:
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
    outcome = watch(attendance, run, _request(claim, run), limits=limits, ears=Ears(reporter.hear, order))
    if outcome.errors and outcome.end not in (End.LOST, End.DRAINED, End.CANCELLED):
        reporter.hear(LogMessage(level="warning", text=outcome.errors[-4000:]))
    return outcome


def _request(claim: JobClaim, run: Run) -> RunJob:
    asked = claim.request
    return RunJob(
        job=claim.lease.id,
        recipe=asked.recipe,
        target=asked.target,
        constraints=asked.constraints,
        seed=claim.seed,
        model=staged_files(run, claim.model),
        dataset=staged_files(run, claim.dataset, first=len(claim.model)),
        dataset_spec=claim.dataset_spec,
        models=_others(claim, run),
        lock_path=presence.sandbox().measuring_lock(run),
    )


def _others(claim: JobClaim, run: Run) -> dict[str, tuple[StagedFile, ...]]:
    """The other models, whose files come after those of model and data set."""
    first = len(claim.model) + len(claim.dataset)
    found = {}
    for identifier, sources in claim.others.items():
        found[identifier] = staged_files(run, sources, first=first)
        first += len(sources)
    return found


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
