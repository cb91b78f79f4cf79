"""Errors as answers: `application/problem+json` (RFC 9457) with a stable code and a status by kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from core.errors import Kind, ModelpressError
from core.resources.shape import Problem

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "1"
STATUS: Mapping[Kind, int] = {
    Kind.INVALID: 422,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.NOT_ALLOWED: 405,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.RANGE: 416,
    Kind.RATE_LIMITED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}

_log = structlog.get_logger("api")


def install_error_handlers(app: FastAPI, as_page: Callable[[Request, ModelpressError], Response]) -> None:
    """Make every error that a route raises an answer of one shape; browsers outside `/v1` get it from `as_page`."""

    def tell(request: Request, error: ModelpressError, headers: Mapping[str, str] | None = None) -> Response:
        if not is_for_page(request):
            return answer(request, error, headers=headers)
        page = as_page(request, error)
        page.headers.update(headers or {})
        return page

    @app.exception_handler(ModelpressError)
    def _known(request: Request, error: ModelpressError) -> Response:
        return tell(request, error)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        return tell(request, explain(error.errors(), error.body))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        return tell(request, translate(error, request), error.headers)

    @app.exception_handler(DataError)
    def _unstorable(request: Request, _: DataError) -> Response:
        detail = "The request holds text or a number that cannot be stored, such as a NUL character."
        return tell(request, ModelpressError("invalid_request", detail))

    # A unique key lost to a neighbour, a lock not had in time, a database that restarts: asking again helps.
    @app.exception_handler(IntegrityError)
    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeoutError)
    def _database(request: Request, error: Exception) -> Response:
        _log.warning("database", error=str(error), request_id=request.state.request_id)
        return tell(request, ModelpressError("unavailable", "The database could not do this now."))


def is_for_page(request: Request) -> bool:
    """Whether a person with a browser waits for the answer."""
    return not request.url.path.startswith("/v1/") and "text/html" in request.headers.get("accept", "")


def answer(request: Request, error: ModelpressError, *, headers: Mapping[str, str] | None = None) -> Response:
    """The error as `application/problem+json`."""
    kind = error.entry.kind
    extra = dict(headers or {})
    if kind in (Kind.UNAVAILABLE, Kind.RATE_LIMITED):
        extra["Retry-After"] = RETRY_AFTER_SECONDS
    if kind is Kind.UNAUTHENTICATED:
        extra["WWW-Authenticate"] = "Bearer"
    problem = Problem(
        type=f"urn:modelpress:error:{error.code}",
        title=error.entry.title,
        status=STATUS[kind],
        detail=error.detail,
        code=error.code,
        pointer=error.pointer,
        hint=error.hint,
        request_id=request.state.request_id,
    )
    content = problem.model_dump_json(exclude_none=True)
    return Response(content, status_code=problem.status, media_type=PROBLEM_TYPE, headers=extra)


def translate(error: HTTPException, request: Request) -> ModelpressError:
    """What the framework itself refuses, in our words."""
    if error.status_code == 404:
        return ModelpressError("not_found", f"There is nothing at {request.url.path}.")
    if error.status_code == 405:
        return ModelpressError("method_not_allowed", f"{request.method} is not possible at {request.url.path}.")
    if error.status_code == 413:
        return ModelpressError("too_large", str(error.detail), hint="Send less in one request.")
    return ModelpressError("invalid_request", str(error.detail))


def explain(errors: Sequence[Any], body: object) -> ModelpressError:
    """The complaints of pydantic as one sentence; `pointer` leads to the first of them."""
    sentences = [f"{pointer(error, body) or 'The body'}: {error['msg']}." for error in errors[:3]]
    if len(errors) > 3:
        sentences.append(f"And {len(errors) - 3} more.")
    return ModelpressError("invalid_request", " ".join(sentences), pointer=pointer(errors[0], body))


def pointer(error: Mapping[str, Any], body: object) -> str | None:
    """Where in the request: a JSON pointer into the body, else `/query/name`, `/header/name` or `/path/name`."""
    place, *rest = error["loc"]
    if place != "body":
        return "/" + "/".join(str(part) for part in (place, *rest))
    if error["type"] == "json_invalid":
        return None
    return "".join(f"/{escape(part)}" for part in real_steps(rest, body)) or None


def real_steps(location: Sequence[int | str], body: object) -> list[int | str]:
    """The part of pydantic's location that exists in the body; it also names the members of unions that it tried."""
    steps: list[int | str] = []
    for index, part in enumerate(location):
        inner = _inside(body, part)
        # A missing field is named although it is not there; it can only be the last step.
        if inner is _ABSENT and (index < len(location) - 1 or not isinstance(body, dict)):
            continue
        steps.append(part)
        body = inner
    return steps


_ABSENT = object()


def _inside(body: object, part: int | str) -> object:
    if isinstance(body, dict):
        return body.get(part, _ABSENT)
    if isinstance(body, list) and isinstance(part, int) and part < len(body):
        return body[part]
    return _ABSENT


def escape(part: int | str) -> str:
    """One step of a JSON pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")
