"""A webhook receiver on the loopback interface that verifies what it gets; the demo uses it, and it is an example."""

import queue
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

_LARGEST_BODY = 64 * 1024


@dataclass(frozen=True)
class Received:
    """One verified event: its id and its body."""

    id: str
    body: dict[str, Any]


class Receiver:
    """Listens on a free port; use it as a context manager."""

    def __init__(self) -> None:
        self._secret: str | None = None
        self._events: queue.Queue[Received] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), _LARGEST_BODY))
                self.send_response(receiver._accept(body, dict(self.headers.items())))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing: the terminal belongs to the demo."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The address to register."""
        return f"http://127.0.0.1:{self._server.server_port}/events"

    def trust(self, secret: str) -> None:
        """Accept what is signed with this secret, and nothing else."""
        self._secret = secret

    def wait_for(self, kind: str, subject: str, seconds: float) -> Received | None:
        """The next event of that type about that object; None when the time is over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                return None
            if event.body.get("type") == kind and event.body.get("data", {}).get("id") == subject:
                return event
        return None

    def _accept(self, body: bytes, headers: dict[str, str]) -> int:
        """Verify signature and time; the HTTP status to answer with."""
        if self._secret is None:
            return 503
        try:
            event = Webhook(self._secret).verify(body, headers)
        except WebhookVerificationError:
            return 401
        self._events.put(Received({name.lower(): value for name, value in headers.items()}["webhook-id"], event))
        return 204
