"""The whole stack under its supervisor: alive, started again after a crash, and gone afterwards, whatever ended it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from launch.process import LaunchError
from launch.stack import Options
from launch.supervisor import Supervisor

UP = [sys.executable, "-m", "modelpress", "up", "--json", "--port", "0", "--home"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def workers(stack: Supervisor, key: str) -> set[str]:
    request = urllib.request.Request(f"{stack.url}/v1/system", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return {worker["kind"] for worker in json.load(answer)["workers"]}
    except OSError:
        return set()


def start_and_check(stack: Supervisor) -> None:
    stack.start()
    wait_for(lambda: stack.check() and False)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`modelpress up` as a process of its own, its home a relative path with a space."""
    with subprocess.Popen([*UP, "a home"], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_parts_are_alive_start_again_and_stop(tmp_path: Path) -> None:
    others = set(family(os.getpid()))
    with Supervisor(Options(tmp_path / "home", port=None, durable=False)) as stack:
        prepared = stack.start(key_name="test")
        assert prepared.sign_in_url.startswith(f"{stack.url}/sign-in?token=")
        assert prepared.key
        assert set(stack.pids()) == {"api", "compute", "inspect", "dispatch"}
        wait_for(lambda: len(workers(stack, prepared.key or "")) >= 2)

        before = stack.pids()
        for name in ("api", "dispatch"):
            os.kill(before[name], signal.SIGKILL)
        for server in {each for each in psutil.Process().children() if each not in others}:
            if server.name() in {"postgres", "valkey-server"}:
                server.kill()
        again: list[str] = []
        wait_for(lambda: again.extend(stack.check()) or len(again) >= 4)
        assert set(again) == {"api", "dispatch", "postgres", "valkey"}
        wait_for(lambda: len(workers(stack, prepared.key or "")) >= 2)
        assert stack.pids()["compute"] == before["compute"]
        everybody = [each for each in family(os.getpid()) if each not in others]
        assert len(everybody) > 6
    assert not alive(everybody)


def test_a_second_supervisor_on_the_same_home_is_refused(tmp_path: Path) -> None:
    options = Options(tmp_path, port=None, durable=False)
    with Supervisor(options) as first:
        first.start()
        with Supervisor(options) as second, pytest.raises(LaunchError, match="already runs"):
            second.start()
        assert set(first.pids()) == {"api", "compute", "inspect", "dispatch"}


def test_servers_that_are_named_are_used(tmp_path: Path, database: str, valkey: str) -> None:
    extra = {"DATABASE_URL": database, "REDIS_URL": valkey, "MODELPRESS_QUEUE_PREFIX": f"{tmp_path.name}:"}
    with Supervisor(Options(tmp_path / "home", port=None, extra=extra)) as stack:
        stack.start(key_name="named")
        assert not (tmp_path / "home" / "postgres").exists()
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT name FROM keys").fetchone() == ("named",)


def test_a_part_that_cannot_run_here_stops_the_start_with_its_sentence(tmp_path: Path) -> None:
    extra = {"SANDBOX": "bwrap", "PATH": "/nowhere", "MODELPRESS_RUNNER_MODULE": "no_such_module"}
    refused = pytest.raises(LaunchError, match="worker cannot run here: The package no_such_module")
    with Supervisor(Options(tmp_path, port=None, durable=False, extra=extra)) as stack, refused:
        start_and_check(stack)


def test_up_stops_clean_when_asked(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert up.stdout
    wait_for((tmp_path / "a home" / "login.json").exists)
    everybody = family(up.pid)
    assert len(everybody) > 6
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    assert not alive(everybody)
    shown = json.load(up.stdout)
    assert shown["sign_in_url"].startswith(shown["url"])
    assert (tmp_path / "a home" / "login.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal exists on Linux only")
def test_nothing_is_left_when_the_supervisor_is_killed(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    wait_for((tmp_path / "a home" / "login.json").exists)
    everybody = family(up.pid)
    assert len(everybody) > 6
    up.kill()
    wait_for(lambda: not alive(everybody), seconds=20)
