"""Downloads: whole, in part, unchanged, and never as a page."""

import hashlib

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import User
from tests.api.world import CONTENT, build_world


@pytest.fixture
def address(alice: User) -> str:
    return f"/v1/artifacts/{build_world(alice.tenant).ids['artifact']}/content"


def test_whole(client: TestClient, alice: User, address: str) -> None:
    answer = client.get(address, headers=alice.headers)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"net_int8__.onnx\"; filename*=UTF-8''net%20int8%20%C3%BC.onnx"
    )
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("header", "first", "last"), [("bytes=0-0", 0, 0), ("bytes=100-299", 100, 299), ("bytes=-7", 10233, 10239)]
)
def test_part(client: TestClient, alice: User, address: str, header: str, first: int, last: int) -> None:
    answer = client.get(address, headers={**alice.headers, "Range": header})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert answer.content == CONTENT[first : last + 1]


def test_part_outside(client: TestClient, alice: User, address: str) -> None:
    answer = client.get(address, headers={**alice.headers, "Range": "bytes=99999-"})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


def test_several_parts_give_the_whole(client: TestClient, alice: User, address: str) -> None:
    answer = client.get(address, headers={**alice.headers, "Range": "bytes=0-1,5-6"})
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_unchanged(client: TestClient, alice: User, address: str) -> None:
    tag = client.head(address, headers=alice.headers).headers["etag"]
    assert client.get(address, headers={**alice.headers, "If-None-Match": f'"x", {tag}'}).status_code == 304
    part = {**alice.headers, "Range": "bytes=0-1"}
    assert client.get(address, headers={**part, "If-Range": tag}).status_code == 206
    assert client.get(address, headers={**part, "If-Range": '"other"'}).status_code == 200


def test_head_sends_no_bytes(client: TestClient, alice: User, address: str) -> None:
    answer = client.head(address, headers=alice.headers)
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.content == b""
