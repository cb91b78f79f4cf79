"""Webhooks to real receivers on the loopback."""

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from core.database.session import transaction
from core.database.tables import DeliveryRow
from core.resources.webhook import WebhookCreate
from core.services import webhooks
from core.services.deliveries import Answer, DueDelivery
from core.settings import settings
from workers.deliver_webhook import deliver_webhook, send

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = json.dumps({"type": "job.succeeded", "data": {"name": "é\u2028"}}, ensure_ascii=False)


@dataclass
class Receiver:
    """What one receiver got, and how it answers."""

    respond: Callable[[BaseHTTPRequestHandler], None]
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"


@contextmanager
def receiving(respond: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Receiver]:
    receiver = Receiver(respond)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            receiver.respond(self)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return respond


@pytest.fixture
def allowed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["127.0.0.0/8"]')
    monkeypatch.setenv("MODELPRESS_WEBHOOK_TIMEOUT_SECONDS", "1")
    settings.cache_clear()


def post(url: str, *secrets: str) -> Answer:
    due = DueDelivery(
        id="dlv_1", webhook="whk_1", url=url, body=BODY, secrets=secrets or (SECRET,), event="evt_1", number=1
    )
    return asyncio.run(send(due))


@pytest.mark.usefixtures("allowed")
class TestSend:
    def test_the_stored_bytes_are_signed_and_sent(self) -> None:
        with receiving(answer(204)) as receiver:
            assert post(receiver.url).received
        ((headers, body),) = receiver.got
        assert body == BODY.encode()
        assert headers["webhook-id"] == "evt_1"
        assert headers["host"] == f"127.0.0.1:{receiver.port}"
        assert Webhook(SECRET).verify(body, headers) == json.loads(BODY)

    def test_during_a_rotation_both_keys_sign(self) -> None:
        with receiving(answer(200)) as receiver:
            post(receiver.url, SECRET, OTHER)
        ((headers, body),) = receiver.got
        for secret in (SECRET, OTHER):
            Webhook(secret).verify(body, headers)

    @pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
    def test_the_zone_of_the_host_changes_nothing(self, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            with receiving(answer(200)) as receiver:
                post(receiver.url)
        finally:
            monkeypatch.undo()
            time.tzset()
        ((headers, body),) = receiver.got
        Webhook(SECRET).verify(body, headers)

    def test_a_redirect_is_not_followed(self) -> None:
        with receiving(answer(200)) as elsewhere, receiving(answer(302, location=elsewhere.url)) as receiver:
            found = post(receiver.url)
        assert found.status == 302
        assert not found.received
        assert elsewhere.got == []

    @pytest.mark.parametrize("status", [400, 404, 410, 500, 503])
    def test_any_other_status_is_a_failure(self, status: int) -> None:
        with receiving(answer(status, b"no")) as receiver:
            found = post(receiver.url)
        assert (found.status, found.answer, found.received) == (status, "no", False)

    def test_retry_after_in_seconds_and_as_a_date(self) -> None:
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        for text, expected in (("17", 17), (soon, 100), ("tomorrow", None), ("", None)):
            with receiving(answer(503, retry_after=text)) as receiver:
                found = post(receiver.url)
            assert found.retry_after == (None if expected is None else pytest.approx(expected, abs=5))

    def test_a_huge_answer_is_cut(self) -> None:
        with receiving(endless) as receiver:
            found = post(receiver.url)
        assert found.status == 200
        assert len(found.answer) == 64 * 1024

    def test_a_packed_answer_is_not_unpacked(self) -> None:
        bomb = gzip.compress(b"0" * (64 << 20))
        with receiving(answer(200, bomb, content_encoding="gzip")) as receiver:
            assert len(post(receiver.url).answer) <= 64 * 1024

    @pytest.mark.parametrize("where", ["head", "body"])
    def test_a_receiver_that_drips_is_given_up(self, where: str) -> None:
        with receiving(lambda handler: drip(handler, where)) as receiver:
            began = time.monotonic()
            found = post(receiver.url)
        assert found.status is None
        assert "within 1 seconds" in (found.error or "")
        assert time.monotonic() - began < 5

    def test_nobody_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            found = post(f"http://127.0.0.1:{unused.getsockname()[1]}/")
        assert found.status is None
        assert found.error

    def test_what_is_no_http(self) -> None:
        with receiving(lambda handler: handler.wfile.write(b"\x00\x01garbage\r\n\r\n")) as receiver:
            found = post(receiver.url)
        assert found.status is None
        assert found.error

    def test_the_proxy_of_the_environment_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with receiving(answer(200)) as proxy, receiving(answer(200)) as receiver:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("ALL_PROXY", proxy.url)
            assert post(receiver.url).received
        assert proxy.got == []


@pytest.mark.usefixtures("scratch")
def test_a_private_address_is_refused_at_the_send_too() -> None:
    with receiving(answer(200)) as receiver:
        for host in ("127.0.0.1", "localhost", "[::1]", "2130706433"):
            found = post(f"https://{host}:{receiver.port}/")
            assert found.status is None
            assert found.error
    assert receiver.got == []


@pytest.mark.usefixtures("allowed")
def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(
        [openssl, "req", *subject, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names: list[str | None] = []
    context.sni_callback = lambda connection, name, _: names.append(name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse_one, args=(server, context))
        thread.start()
        found = post(f"https://localhost:{server.getsockname()[1]}/")
        thread.join()
    assert found.status is None
    assert "certificate" in (found.error or "").lower()
    assert names == ["localhost"]  # the name is said although the address was dialled


def refuse_one(server: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = server.accept()
    with connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection, server_side=True).close()


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1 << 14):
            handler.wfile.write(b"x" * 65536)
    except OSError:
        handler.close_connection = True


def drip(handler: BaseHTTPRequestHandler, where: str) -> None:
    if where == "body":
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
    try:
        for sign in b"HTTP/1.1 200 OK and so on" * 10:
            handler.wfile.write(bytes([sign]))
            handler.wfile.flush()
            time.sleep(0.2)
    except OSError:
        handler.close_connection = True


def test_the_task_delivers_what_is_due_and_writes_it_down(tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["127.0.0.0/8"]')
    settings.cache_clear()
    with receiving(answer(200, b"thanks")) as good, receiving(answer(500)) as bad:
        for receiver in (good, bad):
            with transaction() as session:
                made = webhooks.create(session, tenant, WebhookCreate(url=receiver.url, events=("job.*",)))
                webhooks.test(session, tenant, made.id)
        deliver_webhook("")
        deliver_webhook("")
    assert len(good.got) == len(bad.got) == 1
    with transaction() as session:
        rows = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)).all()
    assert [row.state for row in rows] == ["delivered", "pending"]
    assert [row.tries[0]["status"] for row in rows] == [200, 500]
    assert rows[0].tries[0]["answer"] == "thanks"
