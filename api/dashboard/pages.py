"""Every page under one router, and the files that pages load."""

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from api.dashboard import datasets, graph, jobs, keys, models, new_job, sign_in, webhooks
from api.dashboard.rendering import PageRoute, Seen, see

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_files = StaticFiles(directory=Path(__file__).parent / "static")


@router.get("/")
def start() -> RedirectResponse:
    """The first page is the list of jobs."""
    return see("/jobs")


@router.get("/system")
def show_system(view: Seen) -> Response:
    """Workers and queues, which the side bar asks for again and again."""
    return view.page("system.html", {})


@router.get("/static/{path:path}")
async def load_file(path: str, request: Request) -> Response:
    """A file that ships with the pages."""
    answer = await _files.get_response(path, request.scope)
    answer.headers["Cache-Control"] = "no-cache"
    return answer


# `/jobs/new` must be known before `/jobs/{job_id}`.
for part in (sign_in, new_job, jobs, models, graph, datasets, webhooks, keys):
    router.include_router(part.router)
