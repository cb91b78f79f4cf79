"""The outermost layer: request id, Host check, cap on bodies, security headers, last resort, one log line."""

import re
import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer
from core.errors import ModelpressError
from core.ids import new_id
from core.settings import settings

UPLOADS_PATH = "/v1/uploads"
MAX_BODY_BYTES = 1_000_000
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# `no-referrer` would make browsers send `Origin: null` with forms, which the check of writes refuses.
SECURITY_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE)

_log = structlog.get_logger("api")


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "modelpress_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "modelpress_http_seconds", "Seconds until an answer began.", ("method", "route"), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is no HTTP request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = _Answered(scope, send)
        try:
            await self._guarded(scope, receive, answered)
        except ClientDisconnect:
            answered.status = answered.status or 499
        # The edge of a request: whatever it was, the caller gets a problem and an id.
        except Exception:
            _log.exception("failed", request_id=answered.request_id)
            if answered.status:
                raise
            error = ModelpressError("internal", "An unexpected error was met; it is in the log with this request id.")
            await answer(Request(scope), error)(scope, receive, answered)
        finally:
            self._record(scope, answered)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if not is_own_host(headers.get("host", "")):
            error = ModelpressError(
                "invalid_request",
                "This service does not answer to that Host.",
                hint="Add the host name to MODELPRESS_ALLOWED_HOSTS.",
            )
            await answer(Request(scope), error)(scope, receive, send)
            return
        capped = receive if scope["path"] == UPLOADS_PATH else _capped(receive)
        await self._app(scope, capped, send)

    def _record(self, scope: Scope, answered: "_Answered") -> None:
        # The template of the path, never the path: ids do not belong into labels, nor tokens of queries into logs.
        route = getattr(scope.get("route"), "path", "none")
        status = answered.status or 500
        self._requests.labels(scope["method"], route, status).inc()
        self._seconds.labels(scope["method"], route).observe(answered.seconds)
        milliseconds = round(answered.seconds * 1000, 1)
        _log.info(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            milliseconds=milliseconds,
            request_id=answered.request_id,
        )


class _Answered:
    """`send` with the headers that every answer has; remembers the status and when the answer began."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = new_id("req")
        self.status = 0
        self.seconds = 0.0
        self._send = send
        self._began = time.monotonic()
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = self.request_id

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.seconds = time.monotonic() - self._began
            headers = MutableHeaders(scope=message)
            headers["Request-Id"] = self.request_id
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def is_own_host(host: str) -> bool:
    """Whether a Host header names this service: exactly, or by a pattern such as `*.example.org`."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].lower()
    return any(
        name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]))
        for pattern in (allowed.lower() for allowed in settings().allowed_hosts)
    )


def _capped(receive: Receive) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
        return message

    return counted
