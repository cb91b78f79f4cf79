"""HTTP to one service: requests that are repeated where that is safe, errors as problems, streams."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from pydantic import ValidationError

from core.resources.shape import Problem

_TRIES = 3
_LONGEST_WAIT = 30.0


class ApiError(Exception):
    """The service refused or failed; `problem` says why and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class UnreachableError(Exception):
    """No service answers at the address, or the connection broke."""


@dataclass(frozen=True)
class Request:
    """One request; `body` is a function because a request may be sent again."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Iterator[bytes]] | None = None


class Connection:
    """Keeps the connections to one service open; raises `ApiError` and `UnreachableError`."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        try:
            self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=httpx2.Timeout(30, read=60))
        except (httpx2.InvalidURL, ValueError) as error:
            raise UnreachableError(f"{url} is no address: {error}") from error

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def send(self, request: Request) -> bytes:
        """Send, and again after a wait while the service asks for it: every POST carries an Idempotency-Key."""
        for left in reversed(range(_TRIES)):
            answer = self._once(request)
            if answer.status_code not in {429, 503} or not left:
                break
            time.sleep(_wait_asked_for(answer))
        _check(answer)
        return answer.content

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """Read an answer piece by piece."""
        try:
            with self._http.stream("GET", path, headers=headers) as answer:
                if not answer.is_success:
                    answer.read()
                _check(answer)
                yield answer
        except (httpx2.TransportError, httpx2.UnsupportedProtocol) as error:
            raise UnreachableError(f"The connection to {self.url} broke: {error}") from error

    def _once(self, request: Request) -> httpx2.Response:
        content = request.body() if request.body else None
        try:
            return self._http.request(
                request.method, request.path, params=request.params or None, headers=request.headers, content=content
            )
        except (httpx2.TransportError, httpx2.UnsupportedProtocol) as error:
            raise UnreachableError(f"No answer from {self.url}: {error}") from error


def _wait_asked_for(answer: httpx2.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else 1.0


def _check(answer: httpx2.Response) -> None:
    if answer.is_success:
        return
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        problem = Problem(
            type="about:blank",
            title=answer.reason_phrase or "Error",
            status=answer.status_code,
            detail=f"The server answered {answer.status_code} without saying why; is this address a Modelpress?",
            code="internal",
            request_id=answer.headers.get("Request-Id", ""),
        )
    raise ApiError(problem)
