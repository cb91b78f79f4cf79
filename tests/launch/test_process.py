"""Children on real processes: started, stopped, ended by force, remembered and found again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import orphans
from launch.process import Command, LaunchError, run, start, stop, tail
from launch.sockets import free_port, socket_directory

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)


def command(tmp_path: Path, program: str) -> Command:
    return Command([sys.executable, "-c", program], dict(os.environ), tmp_path / "log")


def wait_for(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_runs_in_a_session_of_its_own_and_writes_its_log(tmp_path: Path) -> None:
    assert run(command(tmp_path, "import os; print('sid', os.getsid(0) == os.getpid()); raise SystemExit(3)")) == 3
    assert tail(tmp_path / "log") == "sid True"


def test_a_polite_child_stops_by_itself_and_a_stubborn_one_is_killed(tmp_path: Path) -> None:
    polite = start(command(tmp_path, "import time; time.sleep(600)"))
    assert stop(polite, signal.SIGTERM, 10)
    stubborn = start(command(tmp_path, STUBBORN))
    wait_for(lambda: "ready" in tail(tmp_path / "log"))
    assert not stop(stubborn, signal.SIGTERM, 0.2)
    assert stubborn.returncode == -signal.SIGKILL


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no program /no/such/thing"):
        start(Command(["/no/such/thing"], {}, tmp_path / "log"))


def test_orphans_are_ended_and_strangers_with_their_numbers_are_not(tmp_path: Path) -> None:
    file = tmp_path / "children.json"
    with subprocess.Popen(["sleep", "600"]) as orphan, subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            orphans.remember(file, [orphan.pid, stranger.pid])
            born = json.loads(file.read_text())
            born[str(stranger.pid)] -= 100
            file.write_text(json.dumps(born))
            orphans.end(file)
            orphan.wait(5)
            assert stranger.poll() is None
        finally:
            orphan.kill()
            stranger.kill()
    assert not file.exists()
    orphans.end(file)


def test_a_long_path_gets_a_short_folder_of_its_own(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 40)
    long.mkdir()
    short = socket_directory(long, "s.sock")
    assert len(os.fsencode(short / "s.sock")) <= 103
    assert short.stat().st_mode & 0o777 == 0o700
    assert socket_directory(long, "s.sock") == short
    short.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_short_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 40)
    long.mkdir()
    short = socket_directory(long, "s.sock")
    os.chown(short, 12345, 12345)
    with pytest.raises(LaunchError, match="belongs to somebody else"):
        socket_directory(long, "s.sock")
    short.rmdir()


def test_a_taken_port_is_not_given() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port
