"""Templates, and the page as a browser gets it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.orm import Session

from api.dashboard.formats import FILTERS
from api.deps import Reader, Reading, Writing, caller
from api.errors import STATUS, explain
from core.errors import Kind, ModelpressError
from core.resources.system import Scope, System
from core.services import system
from core.services.keys import Principal
from core.settings import settings

THEMES = ("light", "dark")

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(FILTERS)


def html(request: Request, template: str, values: Mapping[str, object], *, status: int = 200) -> HTMLResponse:
    """A page that needs no session."""
    theme = request.cookies.get("theme")
    shared = {
        "theme": theme if theme in THEMES else None,
        "path": request.url.path,
        "unconfined": settings().sandbox == "none",
        "system": None,
        "csrf": "",
    }
    content = _environment.get_template(template).render({**shared, **values})
    return HTMLResponse(content, status_code=status, headers={"Cache-Control": "no-store"})


@dataclass(frozen=True, slots=True)
class View:
    """One request of somebody who is signed in."""

    request: Request
    session: Session
    principal: Principal

    @property
    def tenant(self) -> str:
        """Whose objects are shown."""
        return self.principal.tenant

    def may(self, scope: Scope) -> bool:
        """Whether the key or session has the scope."""
        return scope in self.principal.scopes

    def need(self, scope: Scope) -> None:
        """Raise `forbidden` unless the key or session has the scope."""
        if not self.may(scope):
            raise ModelpressError("forbidden", f"This needs the scope `{scope}`, which your key does not have.")

    def page(self, template: str, values: Mapping[str, object], *, status: int = 200) -> HTMLResponse:
        """A page within the shell: navigation, workers and queues."""
        now = system.system(self.session)
        shared = {"system": now, "unconfined": is_unconfined(now), "csrf": self.principal.csrf or ""}
        return html(self.request, template, {**shared, **values}, status=status)


def is_unconfined(now: System) -> bool:
    """Whether anything here runs uploaded networks without a sandbox."""
    return "none" in {settings().sandbox, now.sandbox, *(worker.sandbox for worker in now.workers)}


# The caller comes first: its session is closed before the next is opened, so no request holds two connections.
def seeing(request: Request, principal: Reader, session: Reading) -> View:
    """Somebody looks at a page."""
    return View(request, session, principal)


def doing(request: Request, principal: Annotated[Principal, Depends(caller)], session: Writing) -> View:
    """Somebody sends a form; the route says which scope that needs."""
    return View(request, session, principal)


Seen = Annotated[View, Depends(seeing)]
Done = Annotated[View, Depends(doing)]


def see(path: str) -> RedirectResponse:
    """Go on to a page after a form was accepted."""
    return RedirectResponse(path, status_code=303)


class PageRoute(APIRoute):
    """A route whose errors are pages; whoever is not signed in is sent to sign in."""

    def get_route_handler(self) -> Callable[[Request], object]:  # type: ignore[override]  # a coroutine function
        """The handler of the route, with errors shown as pages."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                return await handle(request)
            except ModelpressError as error:
                return refuse(request, error)
            except RequestValidationError as error:
                return refuse(request, explain(error.errors(), error.body))

        return handle_page


def refuse(request: Request, error: ModelpressError) -> Response:
    """The error as a page."""
    if error.entry.kind is Kind.UNAUTHENTICATED and request.url.path != "/sign-in":
        if "hx-request" in request.headers:
            return Response(headers={"HX-Redirect": "/sign-in"})
        if request.method != "GET":
            return see("/sign-in")
        return see(f"/sign-in?next={quote(request.url.path)}")
    return html(request, "error.html", {"error": error}, status=STATUS[error.entry.kind])
