"""What routes depend on: a database session, the caller, and the right to do what is asked."""

import json
from collections.abc import Callable, Iterator
from secrets import compare_digest
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from core.database.session import read_only, transaction
from core.errors import ModelpressError
from core.resources.system import Scope
from core.services import keys, sign_in
from core.services.keys import Principal
from core.settings import settings
from core.storage.blobs import Blobs, open_blobs

SESSION_COOKIE = "modelpress_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_bearer = HTTPBearer(scheme_name="key", bearerFormat="mp_<id>_<secret>", auto_error=False)
_cookie = APIKeyCookie(name=SESSION_COOKIE, scheme_name="session", auto_error=False)


def writing() -> Iterator[Session]:
    """A session that is committed before the answer leaves, or rolled back."""
    with transaction() as session:
        yield session


def reading() -> Iterator[Session]:
    """A session that cannot write."""
    with read_only() as session:
        yield session


# A `yield` dependency of the default scope would commit after the answer has left.
Writing = Annotated[Session, Depends(writing, scope="function")]
Reading = Annotated[Session, Depends(reading, scope="function")]


def blobs() -> Blobs:
    """Where bytes are kept."""
    return open_blobs(settings().storage_url)


Storage = Annotated[Blobs, Depends(blobs)]


async def whole_text(request: Request) -> None:
    """Refuse JSON with half a surrogate pair (`"\\ud800"`): it is no text, and can neither be stored nor sent."""
    body = await request.body()
    if b"\\u" not in body:
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelpressError("invalid_request", "The body is no JSON, or has half a character in it.") from error


async def form_token(request: Request) -> str | None:
    """The CSRF token of a write: the header `X-CSRF-Token`, else the field `csrf_token` of a form outside `/v1`."""
    header = request.headers.get("x-csrf-token")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if header is not None or request.method in SAFE_METHODS or request.url.path.startswith("/v1/"):
        return header
    if kind != "application/x-www-form-urlencoded":
        return None
    field = (await request.form()).get("csrf_token")
    return field if isinstance(field, str) else None


def caller(
    request: Request,
    key: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    cookie: Annotated[str | None, Depends(_cookie)],
    token: Annotated[str | None, Depends(form_token)],
) -> Principal:
    """Who asks: the key of `Authorization: Bearer`, else the page's session, whose writes must come from the page."""
    if key is not None:
        with transaction() as session:
            principal = keys.authenticate(session, key.credentials)
            keys.touch(session, str(principal.key_id))
        return principal
    if cookie is None:
        raise ModelpressError("unauthenticated", "The request carries neither a key nor a session.")
    with transaction() as session:
        principal = sign_in.authenticate_session(session, cookie)
    if request.method not in SAFE_METHODS:
        check_same_site(request)
        check_csrf(token, principal.csrf)
    return principal


Caller = Annotated[Principal, Depends(caller)]


def check_same_site(request: Request) -> None:
    """Raise `csrf_failed` unless the browser says that the request comes from one of our own pages."""
    origin = request.headers.get("origin")
    if origin is None:
        if request.headers.get("sec-fetch-site") == "same-origin":
            return
        raise ModelpressError("csrf_failed", "A write with a session must carry an Origin header.")
    own = {request.headers.get("host", "").lower(), urlsplit(settings().public_url).netloc.lower()}
    if urlsplit(origin.lower()).netloc not in own:
        raise ModelpressError("csrf_failed", "The request comes from another site.")


def check_csrf(sent: str | None, expected: str | None) -> None:
    """Raise `csrf_failed` unless the token that was sent is the one of the session."""
    if not sent or not expected or not compare_digest(sent.encode(), expected.encode()):
        raise ModelpressError("csrf_failed", "The CSRF token is missing or is not the one of this session.")


def allowed(scope: Scope) -> Callable[[Principal], Principal]:
    """A dependency that gives the caller, or raises `forbidden` if the key lacks `scope`."""

    def check(principal: Caller) -> Principal:
        if scope not in principal.scopes:
            raise ModelpressError("forbidden", f"This needs the scope `{scope}`, which the key does not have.")
        return principal

    return check


Reader = Annotated[Principal, Depends(allowed("read"))]
ModelWriter = Annotated[Principal, Depends(allowed("models:write"))]
JobWriter = Annotated[Principal, Depends(allowed("jobs:write"))]
WebhookUser = Annotated[Principal, Depends(allowed("webhooks"))]
Admin = Annotated[Principal, Depends(allowed("admin"))]
