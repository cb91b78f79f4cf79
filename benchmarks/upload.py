"""Uploads one large file through a real uvicorn: MB/s against `cp` + `sha256sum`, and the growth of the memory."""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from launch.postgres import Postgres

BLOCK = 1 << 20


def main() -> None:
    """Print one line a run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, service(Path(folder)) as (api, port, token):
        send(port, token, make_file(Path(folder) / "warm-up.bin", BLOCK))
        idle = api.memory_info().rss
        rows = []
        for run in range(asked.runs):
            # Another file each time: bytes that are known already would be stored only once.
            path = make_file(Path(folder) / f"{run}.bin", asked.bytes)
            with peak_of(api) as peak:
                seconds = send(port, token, path)
            plain = copy_and_hash(path)
            rows.append((asked.bytes / seconds / 1e6, asked.bytes / plain / 1e6, peak[0] - idle))
            print(
                f"upload {rows[-1][0]:.0f} MB/s, cp + sha256sum {rows[-1][1]:.0f} MB/s, +{rows[-1][2] / BLOCK:.1f} MiB"
            )
            path.unlink()
        upload, plain, grown = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"median: upload {upload:.0f} MB/s, cp + sha256sum {plain:.0f} MB/s ({upload / plain:.2f} of it)")
        print(f"API memory: idle {idle / BLOCK:.0f} MiB, growth {grown / BLOCK:.1f} MiB (median of the peaks)")


@contextmanager
def service(folder: Path) -> Iterator[tuple[psutil.Process, int, str]]:
    """The API on an embedded PostgreSQL: its process, its port and a key."""
    postgres = Postgres(folder / "postgres")
    os.environ["DATABASE_URL"] = postgres.start()
    os.environ["REDIS_URL"] = "redis://127.0.0.1:9/0"
    os.environ["STORAGE_URL"] = (folder / "blobs").as_uri()
    os.environ["MODELPRESS_SCRATCH_DIR"] = str(folder / "scratch")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "api.app:app", "--fd", str(listener.fileno()), "--no-access-log"]
        command += ["--log-level", "warning", "--timeout-graceful-shutdown", "2"]
        token = make_key()
        with (folder / "api.log").open("wb") as log:
            api = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=log, stderr=log)
        try:
            yield psutil.Process(api.pid), port, token
        finally:
            api.send_signal(signal.SIGTERM)
            api.wait(20)
            postgres.stop()


def make_key() -> str:
    """A key of a fresh database."""
    from core.database.schema import upgrade
    from core.database.session import transaction
    from core.resources.system import KeyCreate
    from core.services import keys, sign_in

    upgrade(os.environ["DATABASE_URL"])
    with transaction() as session:
        return keys.create(session, sign_in.ensure_tenant(session), KeyCreate(name="benchmark")).token


def make_file(path: Path, size: int) -> Path:
    """A file of random bytes, in the page cache."""
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))
    return path


def send(port: int, token: str, path: Path) -> float:
    """Upload the file; the seconds that it took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600, blocksize=BLOCK)
    headers = {"Authorization": f"Bearer {token}", "Content-Length": str(path.stat().st_size)}
    with path.open("rb") as body:
        connection.request("POST", f"/v1/uploads?filename={path.name}", body, headers)
        answer = connection.getresponse()
        upload = json.loads(answer.read())
    if answer.status != 201 or upload["bytes"] != path.stat().st_size:
        raise SystemExit(f"The upload failed: {upload}")
    return time.monotonic() - began


def copy_and_hash(path: Path) -> float:
    """The seconds of `cp` and `sha256sum`, one after the other."""
    copy = path.with_suffix(".copy")
    began = time.monotonic()
    subprocess.run(["cp", path, copy], check=True)
    subprocess.run(["sha256sum", copy], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    copy.unlink()
    return seconds


@contextmanager
def peak_of(process: psutil.Process) -> Iterator[list[int]]:
    """The highest resident memory while the block runs, sampled every 20 ms."""
    peak, done = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    yield peak
    done.set()
    thread.join()


if __name__ == "__main__":
    main()
