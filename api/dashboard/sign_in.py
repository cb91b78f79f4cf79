"""Signing in with a key or a one-time link, and signing out."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from api.dashboard.rendering import Done, PageRoute, html, see
from api.deps import SESSION_COOKIE, Writing, check_same_site
from core.errors import ModelpressError
from core.services import sign_in
from core.settings import settings

router = APIRouter(route_class=PageRoute)

START = "/jobs"


@router.get("/sign-in")
def ask(request: Request, session: Writing, token: str | None = None, next: str = START) -> Response:  # noqa: A002 - the name in the address
    """The form, or with the token of a one-time link the way straight in."""
    if token is None:
        return html(request, "sign_in.html", {"next": own_path(next), "error": None})
    try:
        return enter(sign_in.open_session(session, link=token)[0], START)
    except ModelpressError as error:
        return html(request, "sign_in.html", {"next": START, "error": error.detail}, status=401)


@router.post("/sign-in")
def enter_with_key(
    request: Request,
    session: Writing,
    key: Annotated[str, Form()],
    next: Annotated[str, Form()] = START,  # noqa: A002 - the name of the field
) -> Response:
    """Check the key and open a session with its rights."""
    check_same_site(request)
    try:
        return enter(sign_in.open_session(session, key=key.strip())[0], own_path(next))
    except ModelpressError as error:
        return html(request, "sign_in.html", {"next": own_path(next), "error": error.detail}, status=401)


@router.post("/sign-out")
def leave(view: Done) -> Response:
    """Close the session."""
    sign_in.close_session(view.session, view.request.cookies[SESSION_COOKIE])
    answer = see("/sign-in")
    answer.delete_cookie(SESSION_COOKIE, path="/")
    return answer


def enter(token: str, path: str) -> RedirectResponse:
    """Set the cookie of a new session and go on."""
    answer = see(path)
    answer.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=int(settings().session_seconds),
        httponly=True,
        samesite="lax",
        secure=settings().public_url.startswith("https:"),
        path="/",
    )
    return answer


def own_path(path: str) -> str:
    """`path` if it leads to one of our own pages, else the first page."""
    is_own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_own else START
