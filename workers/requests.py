"""What is asked of the runner of a job, and the files that it needs for it, in one order."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from core.messages import Resume, RunJob, StagedFile
from core.services.attempts import JobClaim
from core.services.checkpoints import Resumption
from core.services.files import ClaimedFile
from core.settings import settings
from workers import presence
from workers.attend import staged_files
from workers.staging import Run


def sources_of(claim: JobClaim) -> tuple[ClaimedFile, ...]:
    """Every file of a job, in the order in which `request_for` takes them."""
    others = chain.from_iterable(claim.others.values())
    kept = (*claim.resume.finished, *claim.resume.partial) if claim.resume else ()
    return (*claim.model, *claim.dataset, *others, *claim.plan, *kept)


def request_for(claim: JobClaim, run: Run) -> RunJob:
    """The request, with the paths that the runner sees."""
    asked, files = claim.request, iter(staged_files(run, sources_of(claim)))
    return RunJob(
        job=claim.lease.id,
        recipe=asked.recipe,
        target=asked.target,
        constraints=asked.constraints,
        seed=claim.seed,
        model=_next(files, claim.model),
        dataset=_next(files, claim.dataset),
        dataset_spec=claim.dataset_spec,
        models={identifier: _next(files, sources) for identifier, sources in claim.others.items()},
        plan=next(iter(_next(files, claim.plan)), None),
        resume=_resume(claim.resume, files) if claim.resume else None,
        checkpoint_seconds=settings().checkpoint_seconds,
        lock_path=presence.sandbox().measuring_lock(run),
    )


def _resume(found: Resumption, files: Iterator[StagedFile]) -> Resume:
    finished = _next(files, found.finished)
    return Resume(job=found.job, steps=found.steps, finished=finished, partial=_next(files, found.partial))


def _next(files: Iterator[StagedFile], sources: Sequence[ClaimedFile]) -> tuple[StagedFile, ...]:
    return tuple(islice(files, len(sources)))
