"""`/v1/jobs`."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse

from api.deps import JobWriter, Reader, Reading, Writing
from api.events import encode, follow, read
from api.idempotency import Idempotent
from api.queries import JobPaging, JobQuery, MetricQuery
from core.resources.job import Artifact, DryRun, Job, JobCreate, JobSummary, MetricSeries
from core.resources.model import Rename
from core.resources.shape import Page
from core.services import artifacts, jobs

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_STREAM = {"type": "string", "description": "`event` is the type, `id` the number, `data` a StreamEvent."}
LastEventId = Annotated[int, Header(ge=0, lt=2**63, description="Number of the last event seen.")]


@router.post(
    "",
    status_code=202,
    response_model=Job,
    responses={200: {"model": DryRun, "description": "The plan, with `dry_run`."}},
)
def create_job(
    body: JobCreate,
    principal: JobWriter,
    once: Idempotent,
    query: Annotated[JobQuery, Query()],
) -> Response:
    """Queue a job, or with `dry_run` say what it would do."""
    if query.dry_run:
        return once.answer(lambda: jobs.plan(once.session, principal.tenant, body), status=200)
    return once.answer(lambda: jobs.create(once.session, principal.tenant, body), status=202, location="/v1/jobs/{id}")


@router.get("")
def list_jobs(query: Annotated[JobPaging, Query()], principal: Reader, session: Reading) -> Page[JobSummary]:
    """The jobs, newest first."""
    return jobs.list_(
        session, principal.tenant, limit=query.limit, after=query.after, state=query.state, model=query.model
    )


@router.get("/{job}")
def get_job(job: str, principal: Reader, session: Reading) -> Job:
    """One job with its steps, verdict and artifacts."""
    return jobs.get(session, principal.tenant, job)


@router.patch("/{job}")
def update_job(job: str, body: Rename, principal: JobWriter, session: Writing) -> Job:
    """Change the name or the metadata."""
    return jobs.rename(session, principal.tenant, job, body)


@router.post("/{job}/cancel", status_code=202, response_model=Job)
def cancel_job(job: str, principal: JobWriter, once: Idempotent) -> Response:
    """Stop a job and keep nothing; cancelling twice is no error."""
    return once.answer(lambda: jobs.cancel(once.session, principal.tenant, job), status=202, location="/v1/jobs/{id}")


@router.post("/{job}/retry", status_code=202, response_model=Job)
def retry_job(job: str, principal: JobWriter, once: Idempotent) -> Response:
    """Queue a new job that asks for the same, linked by `retry_of`."""
    return once.answer(lambda: jobs.retry(once.session, principal.tenant, job), status=202, location="/v1/jobs/{id}")


@router.get("/{job}/metrics")
def list_job_metrics(
    job: str, query: Annotated[MetricQuery, Query()], principal: Reader, session: Reading
) -> MetricSeries:
    """The metrics of a job, oldest first; every number of the verdict is one."""
    return jobs.metrics(session, principal.tenant, job, name=query.name, split=query.split)


@router.get("/{job}/artifacts")
def list_job_artifacts(job: str, principal: Reader, session: Reading) -> Page[Artifact]:
    """What a job made."""
    return Page(data=artifacts.list_(session, principal.tenant, job), has_more=False)


@router.get(
    "/{job}/events",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": _STREAM}}, "description": "The events as they happen."},
        204: {"description": "The job is finished and nothing came after `Last-Event-ID`."},
    },
)
def follow_job(job: str, request: Request, principal: Reader, last_event_id: LastEventId = 0) -> Response:
    """Follow a job live; `Last-Event-ID` resumes, and 204 says that nothing more will come."""
    events, ended = read(principal.tenant, job, last_event_id)
    if ended and not events:
        return Response(status_code=204)
    stream = follow(request.app.state.watch, principal.tenant, job, last_event_id)
    return EventSourceResponse(encode(stream), headers={"X-Accel-Buffering": "no"})
