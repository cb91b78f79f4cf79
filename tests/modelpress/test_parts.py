"""What client and command line are made of: numbers, downloads, logins, the verdict's table, the receiver."""

import hashlib
import http.client
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from standardwebhooks import Webhook

from core.resources.job import Artifact, ArtifactFile
from modelpress.cli.credentials import Login, NoKeyError, find_login, read_login, save_login
from modelpress.cli.numbers import amount, milliseconds, size, times
from modelpress.client import Client
from modelpress.connection import ApiError, UnreachableError
from modelpress.download import WrongBytesError, download
from modelpress.receiver import Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def artifact(**files: bytes) -> Artifact:
    manifest = tuple(
        ArtifactFile(filename=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in files.items()
    )
    return Artifact(
        id="art_1",
        created_at=datetime.now(UTC),
        job="job_1",
        kind="model.onnx",
        filename=manifest[0].filename,
        sha256=manifest[0].sha256,
        bytes=manifest[0].bytes,
        files=manifest,
        content_url="",
    )


def test_numbers_read_as_people_write_them() -> None:
    assert [size(count) for count in (0, 999, 1_733_587, 8e9)] == ["0 B", "999 B", "1.73 MB", "8.00 GB"]
    assert [amount(count) for count in (10, 431_080, 2_293_000)] == ["10", "431 k", "2.29 M"]
    assert [milliseconds(time) for time in (0.157, 2.593, 21.25, 321)] == ["0.157 ms", "2.59 ms", "21.2 ms", "321 ms"]
    assert times(3.816) == "3.82×"


def test_a_download_is_kept_only_when_every_byte_is_right(tmp_path: Path) -> None:
    wanted = artifact(**{"../../model.onnx": b"weights"})
    assert download(wanted, [b"wei", b"ghts"], tmp_path / "out") == [tmp_path / "out" / "model.onnx"]
    with pytest.raises(WrongBytesError):
        download(wanted, [b"wei", b"ghtz"], tmp_path / "bad")
    assert list((tmp_path / "bad").iterdir()) == []


def test_several_files_come_out_of_a_zip_and_nothing_else_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.onnx", b"a")
        archive.writestr("a.data", b"b")
        archive.writestr("../evil", b"c")
    content = (tmp_path / "in.zip").read_bytes()
    kept = download(artifact(**{"a.onnx": b"a", "a.data": b"b"}), [content], tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.data", "a.onnx"]
    assert len(kept) == 2
    with pytest.raises(WrongBytesError):
        download(artifact(**{"a.onnx": b"a", "missing": b"b"}), [content], tmp_path / "bad")


def test_a_login_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MODELPRESS_HOME", str(tmp_path / "home"))
    for name in ("MODELPRESS_URL", "MODELPRESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoKeyError):
        find_login()
    save_login(Login("http://here", "mp_up"), tmp_path / "home" / "login.json")
    assert find_login().key == "mp_up"
    save_login(Login("http://there", "mp_login"), tmp_path / "modelpress" / "login.json")
    assert find_login() == Login("http://there", "mp_login")
    monkeypatch.setenv("MODELPRESS_URL", "http://here")
    assert find_login().key == "mp_up"
    monkeypatch.setenv("MODELPRESS_KEY", "mp_environment")
    assert find_login() == Login("http://here", "mp_environment")
    (tmp_path / "modelpress" / "login.json").write_text("{")
    assert read_login(tmp_path / "modelpress" / "login.json") is None


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    connection.request("POST", "/events", body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_receiver_takes_what_is_signed_and_refuses_the_rest() -> None:
    body = json.dumps({"type": "job.succeeded", "data": {"id": "job_1"}}).encode()
    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign("evt_1", now, body.decode())
    stamp = str(int(now.timestamp()))
    headers = {"webhook-id": "evt_1", "webhook-timestamp": stamp, "webhook-signature": signature}
    with Receiver() as receiver:
        assert post(receiver.url, body, headers) == 503
        receiver.trust(SECRET)
        assert post(receiver.url, body + b" ", headers) == 401
        assert post(receiver.url, body, {**headers, "webhook-timestamp": "1"}) == 401
        assert receiver.wait_for("job.succeeded", "job_1", seconds=0.1) is None
        assert post(receiver.url, body, headers) == 204
        event = receiver.wait_for("job.succeeded", "job_1", seconds=10)
    assert event
    assert event.id == "evt_1"


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is no Modelpress."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"<html>nothing here</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_of_another_kind_is_told_apart(stranger: str) -> None:
    with Client(stranger, "mp_x") as client, pytest.raises(ApiError, match="is this address a Modelpress"):
        client.system()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nonsense", "ftp://x", "http://[::1"])
def test_an_address_where_nobody_answers_is_unreachable(address: str) -> None:
    with pytest.raises(UnreachableError), Client(address, "mp_x") as client:
        client.system()
