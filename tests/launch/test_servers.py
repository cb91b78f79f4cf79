"""The embedded servers on real folders: start, answer, survive, refuse, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from launch.postgres import Postgres, find_binaries
from launch.process import LaunchError
from launch.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import sys, time
from pathlib import Path
from launch.postgres import Postgres
from launch.valkey import Valkey
servers = Postgres(Path(sys.argv[1], "pg"), durable=False), Valkey(Path(sys.argv[1], "vk"))
for server in servers:
    server.start()
print(*(server.pid for server in servers), flush=True)
time.sleep(600)
"""


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
        return row[0] if row else None


def wait_until_gone(pids: list[int], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {pids}"
        time.sleep(0.05)


@pytest.fixture
def stopped() -> Iterator[list[Postgres | Valkey]]:
    """Servers to stop, also when the test fails."""
    servers: list[Postgres | Valkey] = []
    yield servers
    for server in servers:
        server.stop()


@pytest.mark.parametrize("name", ["plain", "with space, and 'quote", "long" * 40])
def test_servers_start_in_any_folder(stopped: list[Postgres | Valkey], tmp_path: Path, name: str) -> None:
    postgres, valkey = Postgres(tmp_path / name / "pg", durable=False), Valkey(tmp_path / name / "vk")
    stopped += [postgres, valkey]
    url = postgres.start()
    assert ask(url, "SELECT current_database()") == "modelpress"
    assert ask(url, "SHOW timezone") == "UTC"
    assert ask(url, "SHOW listen_addresses") == ""
    assert valkey.start().startswith("redis+socket:///")
    valkey.stop()
    postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        ask(url, "SELECT 1")


def test_a_wrong_password_is_refused(stopped: list[Postgres | Valkey], tmp_path: Path) -> None:
    postgres = Postgres(tmp_path, durable=False)
    stopped += [postgres]
    url = postgres.start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(url.replace("modelpress:", "modelpress:x", 1), "SELECT 1")
    postgres.stop()


def test_committed_rows_survive_a_kill(stopped: list[Postgres | Valkey], tmp_path: Path) -> None:
    postgres = Postgres(tmp_path)
    stopped += [postgres]
    with psycopg.connect(postgres.start()) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    assert postgres.pid
    os.kill(postgres.pid, signal.SIGKILL)
    postgres.stop()
    again = Postgres(tmp_path)
    stopped += [again]
    assert ask(again.start(), "SELECT n FROM kept") == 7
    again.stop()


def test_a_second_server_on_the_same_folder_is_refused(stopped: list[Postgres | Valkey], tmp_path: Path) -> None:
    first, second = Postgres(tmp_path, durable=False), Postgres(tmp_path, durable=False)
    stopped += [first, second]
    url = first.start()
    with pytest.raises(LaunchError, match="did not start"):
        second.start()
    assert ask(url, "SELECT 1") == 1
    first.stop()


def test_a_cluster_of_another_version_is_refused(stopped: list[Postgres | Valkey], tmp_path: Path) -> None:
    postgres = Postgres(tmp_path, durable=False)
    stopped += [postgres]
    postgres.start()
    postgres.stop()
    (tmp_path / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(LaunchError, match="was made by PostgreSQL 12"):
        postgres.start()


def test_the_operator_may_name_the_binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).symlink_to(find_binaries() / name)
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    assert find_binaries() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal exists on Linux only")
def test_servers_die_with_their_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
        parent.kill()
    wait_until_gone(pids)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_without_namespaces_becomes_nobody(
    stopped: list[Postgres | Valkey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.postgres.root_identity", lambda: "nobody")
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_mode & 0o001 == 0 and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o001)
    postgres = Postgres(tmp_path / "pg", durable=False)
    stopped += [postgres]
    assert ask(postgres.start(), "SELECT 1") == 1
    assert postgres.pid
    assert psutil.Process(postgres.pid).uids().real == 65534
