"""`/v1/system`, and what orchestrators and Prometheus ask for."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.deps import Reader, Reading
from api.gauges import gauges
from core.resources.system import System
from core.services.system import system

router = APIRouter(tags=["system"])


@router.get("/v1/system")
def get_system(_: Reader, session: Reading) -> System:
    """Version, workers alive, queue lengths, and the host's cores, CPU flags, GPUs and runtimes."""
    return system(session)


@router.get("/healthz", response_class=PlainTextResponse)
def check_health() -> str:
    """Whether the process answers."""
    return "ok\n"


@router.get("/readyz", response_class=PlainTextResponse)
def check_readiness(session: Reading) -> str:
    """Whether the database answers too."""
    system(session)
    return "ok\n"


@router.get("/metrics", response_class=PlainTextResponse)
def get_prometheus_metrics(request: Request, session: Reading) -> Response:
    """Counts for Prometheus; labels carry no ids."""
    text = generate_latest(request.app.state.registry) + generate_latest(gauges(system(session)))
    return Response(text, media_type=CONTENT_TYPE_LATEST)
