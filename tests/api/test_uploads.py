"""Uploads: checked, capped, and nothing left behind by those that fail."""

import base64
import hashlib
import http.client
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
from fastapi.testclient import TestClient

from api.uploads import parse_digest
from core.errors import ModelpressError
from core.settings import settings
from core.storage.blobs import open_blobs
from tests.api.conftest import User

CONTENT = bytes(range(256)) * 300


def repr_digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def files_in_storage() -> list[Path]:
    folder = Path(unquote(urlsplit(settings().storage_url).path))
    return [path for path in folder.rglob("*") if path.is_file()]


def test_upload_is_kept_under_its_sha256(client: TestClient, alice: User) -> None:
    answer = client.post(
        "/v1/uploads?filename=größe 1.onnx",
        content=CONTENT,
        headers={**alice.headers, "Repr-Digest": repr_digest(CONTENT)},
    )
    assert answer.status_code == 201
    upload = answer.json()
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert (upload["filename"], upload["sha256"], upload["bytes"]) == ("größe 1.onnx", sha256, len(CONTENT))
    assert b"".join(open_blobs(settings().storage_url).get(sha256, None)) == CONTENT
    assert client.get(answer.headers["location"], headers=alice.headers).json() == upload


def test_wrong_digest_keeps_nothing(client: TestClient, alice: User) -> None:
    headers = {**alice.headers, "Repr-Digest": repr_digest(b"something else")}
    answer = client.post("/v1/uploads?filename=a", content=CONTENT, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    assert files_in_storage() == []


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_keeps_nothing(
    client: TestClient, alice: User, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setenv("MODELPRESS_MAX_UPLOAD_BYTES", str(len(CONTENT) - 1))
    settings.cache_clear()
    content = iter([CONTENT[:100], CONTENT[100:]]) if chunked else CONTENT
    answer = client.post("/v1/uploads?filename=a", content=content, headers=alice.headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert files_in_storage() == []


@pytest.mark.parametrize("query", ["", "filename=", "filename=a/b", "filename=a%5Cb", "filename=%00", "name=a"])
def test_names_are_labels(client: TestClient, alice: User, query: str) -> None:
    answer = client.post(f"/v1/uploads?{query}", content=CONTENT, headers=alice.headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["pointer"].startswith("/query/")


@pytest.mark.parametrize(
    ("content", "headers"), [(b"", {}), (CONTENT, {"Content-Encoding": "gzip"}), (CONTENT, {"Repr-Digest": "md5=:x:"})]
)
def test_what_cannot_be_taken(client: TestClient, alice: User, content: bytes, headers: dict[str, str]) -> None:
    answer = client.post("/v1/uploads?filename=a", content=content, headers={**alice.headers, **headers})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_client_that_hangs_up_leaves_nothing(live: httpx2.Client, alice: User) -> None:
    with socket.create_connection((live.base_url.host, live.base_url.port or 0)) as raw:
        head = f"POST /v1/uploads?filename=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(CONTENT)}\r\n"
        raw.sendall(f"{head}Authorization: {alice.headers['Authorization']}\r\n\r\n".encode() + CONTENT[:1000])
    # An upload that succeeds afterwards shows that the first one is over.
    assert live.post("/v1/uploads?filename=b", content=b"b", headers=alice.headers).status_code == 201
    assert len(files_in_storage()) == 1


def test_a_large_body_is_refused_before_it_is_sent(live: httpx2.Client, alice: User) -> None:
    connection = http.client.HTTPConnection(live.base_url.host, live.base_url.port)
    connection.putrequest("POST", "/v1/uploads?filename=a")
    connection.putheader("Authorization", alice.headers["Authorization"])
    connection.putheader("Content-Length", str(settings().max_upload_bytes + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()


class TestParseDigest:
    def test_other_digests_beside_it(self) -> None:
        header = f"sha-512=:AAAA:, {repr_digest(CONTENT)}"
        assert parse_digest(header) == hashlib.sha256(CONTENT).hexdigest()

    @pytest.mark.parametrize("header", ["", "sha-256=abc", "sha-256=:####:", "sha-256=:AAAA:", "sha-512=:AAAA:"])
    def test_refused(self, header: str) -> None:
        with pytest.raises(ModelpressError):
            parse_digest(header)
