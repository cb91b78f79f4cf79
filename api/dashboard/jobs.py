"""The list of jobs, one job, and what can be done to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import yaml
from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from api.dashboard import charts, verdicts
from api.dashboard.curves import DRAWN, curves
from api.dashboard.pruned import pruned_table
from api.dashboard.rendering import Done, PageRoute, Seen, View, see
from core.errors import CATALOGUE, ModelpressError
from core.resources.job import Job, JobCreate
from core.resources.webhook import Delivery
from core.services import jobs, models, stream, webhooks
from core.states import JobState
from core.verdict import Latency, Speedup, Verdict

router = APIRouter(route_class=PageRoute)

PAGE_SIZE = 25
LOG_LINES = 300


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log; `at` is seconds since the job began."""

    at: float
    step: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One batch size of the latency table."""

    before: Latency
    after: Latency
    speedup: Speedup | None
    word: str


@router.get("/jobs")
def show_jobs(view: Seen, state: JobState | None = None, after: str | None = None) -> Response:
    """The list, newest first."""
    page = jobs.list_(view.session, view.tenant, limit=PAGE_SIZE, after=after, state=state)
    values: Mapping[str, object] = {
        "jobs": page,
        "chosen": state.value if state else "",
        "after": after or "",
        "states": [each.value for each in JobState],
        "here": view.request.url.path + (f"?{view.request.url.query}" if view.request.url.query else ""),
        "size_words": verdicts.size_words,
        "quality_title": verdicts.quality_title,
    }
    return view.page("jobs.html", values)


@router.get("/jobs/{job_id}")
def show_job(job_id: str, view: Seen) -> Response:
    """One job: its verdict, or how far it is."""
    job = jobs.get(view.session, view.tenant, job_id)
    events = stream.last_lines(view.session, view.tenant, job_id, limit=LOG_LINES)
    began = job.started_at or job.created_at
    values: dict[str, object] = {
        "job": job,
        "titles": {code: entry.title for code, entry in CATALOGUE.items()},
        "tiles": verdicts.tiles(job, original_bytes=model_bytes(view, job)),
        "lines": [log_line(event.payload, event.created_at, began) for event in events],
        "log_limit": LOG_LINES,
        "seq": events[-1].seq if events else 0,
        "files": sorted(job.artifacts, key=lambda each: (not each.kind.startswith("model."), each.filename)),
        "recipe": recipe_text(job),
        "deliveries": deliveries_of(view, job),
        "curves": curves(
            [point for name in DRAWN for point in jobs.metrics(view.session, view.tenant, job_id, name=name).data]
        ),
    }
    if job.verdict is not None:
        values |= verdict_values(job.verdict)
    return view.page("job.html", values)


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, view: Done) -> RedirectResponse:
    """Stop the job; nothing is kept."""
    view.need("jobs:write")
    jobs.cancel(view.session, view.tenant, job_id)
    return see(f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/retry")
def retry_job(job_id: str, view: Done) -> RedirectResponse:
    """Ask for the same again, as a new job."""
    view.need("jobs:write")
    return see(f"/jobs/{jobs.retry(view.session, view.tenant, job_id).id}")


def verdict_values(verdict: Verdict) -> dict[str, object]:
    """What the cards below the tiles need."""
    after = {latency.batch: latency for latency in verdict.result.latency}
    speedups = {speedup.batch: speedup for speedup in verdict.change.speedup}
    rows = [
        LatencyRow(
            before, after[before.batch], speedups.get(before.batch), verdicts.speed_word(speedups.get(before.batch))
        )
        for before in verdict.original.latency
        if before.batch in after
    ]
    return {
        "lesser": verdicts.lesser_numbers(verdict),
        "findings": verdicts.ordered_findings(verdict),
        "layers": verdicts.layer_rows(verdict),
        "layers_sentence": verdicts.layers_sentence(verdict),
        "pruned": pruned_table(verdict),
        "histograms": charts.histograms(verdict.original, verdict.result),
        "latencies": rows,
        "parts": [(name, count) for name, count in verdict.itemised_bytes.model_dump().items() if count],
    }


def recipe_text(job: Job) -> str:
    """The job as the `recipe.yaml` that asks for it again: what differs from the defaults."""
    asked = JobCreate.model_validate({name: getattr(job, name) for name in JobCreate.model_fields})
    said = asked.model_dump(mode="json", exclude_defaults=True)
    for section in ("target", "constraints", "limits"):
        said[section] = getattr(asked, section).model_dump(mode="json", exclude_defaults=True)
    said["recipe"] = {
        "steps": [
            {"method": step.method, **step.model_dump(mode="json", exclude_defaults=True)}
            for step in asked.recipe.steps
        ]
    }
    written = {name: said[name] for name in JobCreate.model_fields if said.get(name)}
    return str(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))


def log_line(payload: Mapping[str, object], at: datetime, began: datetime) -> LogLine:
    """A line of the log with its time since the job began."""
    return LogLine(
        at=(at - began).total_seconds(),
        step=str(payload.get("step") or ""),
        level=str(payload.get("level") or "info"),
        text=str(payload.get("text") or ""),
    )


def model_bytes(view: View, job: Job) -> int | None:
    """The size of the original, which is known before anything is measured."""
    try:
        return models.get(view.session, view.tenant, job.model).bytes
    except ModelpressError:
        return None


def deliveries_of(view: View, job: Job) -> Sequence[Delivery]:
    """The webhook deliveries about a job, newest first, if the key may see them."""
    if not view.may("webhooks"):
        return ()
    return webhooks.deliveries_about(view.session, view.tenant, job.id)
