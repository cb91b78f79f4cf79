"""The web application: `uvicorn api.app:app`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry

from api.dashboard import pages
from api.dashboard.rendering import refuse
from api.deps import whole_text
from api.edge import Edge
from api.errors import install_error_handlers
from api.events import StreamWatch
from api.openapi import install_openapi
from api.routes import artifacts, datasets, events, jobs, keys, methods, models, system, uploads, webhooks
from core.logs import configure_logs

RESOURCES = (models, datasets, jobs, artifacts, methods, webhooks, events, keys, system)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Listen for the streams of jobs while the application runs."""
    configure_logs("api")
    # Its lines would show the query, and with it the token of a sign-in link; `Edge` writes its own.
    logging.getLogger("uvicorn.access").disabled = True
    async with app.state.watch.running():
        yield


def create_app() -> FastAPI:
    """The application; settings are read when it is first asked something, so that importing it needs none."""
    # The interactive pages load scripts from other hosts, which our content security policy forbids.
    app = FastAPI(
        title="Modelpress",
        version=version("modelpress"),
        summary="Makes trained neural networks smaller and faster, and proves it.",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.watch = StreamWatch()
    app.state.registry = CollectorRegistry()
    app.add_middleware(Edge, registry=app.state.registry)
    install_error_handlers(app, as_page=refuse)
    # An upload's body is a stream, which must not be read as a whole.
    app.include_router(uploads.router)
    for resource in RESOURCES:
        app.include_router(resource.router, dependencies=[Depends(whole_text)])
    app.include_router(pages.router)
    install_openapi(app)
    return app


app = create_app()
