"""Workers and dispatcher as programs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.world import variables

WORKER = ("-m", "celery", "-A", "workers.app", "worker", "-P", "threads", "-c", "1", "-Q", "compute", "-l", "WARNING")
NOTHING = ("postgresql://127.0.0.1:9/none", "redis://127.0.0.1:9/0")


def run(arguments: tuple[str, ...], folder: Path, prefix: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **variables(folder, *NOTHING, 1)}
    command = [*prefix, sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_neither_worker_nor_dispatcher_loads_torch(tmp_path: Path) -> None:
    text = "import sys, workers.app, workers.dispatch; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    answer = run(("-c", text), tmp_path)
    assert answer.returncode == 0, answer.stderr


def test_where_the_kernel_forbids_it_the_worker_refuses_to_start(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    # A user namespace in which no further namespace may be made, as in a container without privileges.
    forbid = 'cd /proc/sys/user; echo 0 > max_user_namespaces; echo 0 > max_mnt_namespaces; exec "$@"'
    answer = run(WORKER, tmp_path, (unshare, "--user", "--map-root-user", "sh", "-c", forbid, "sh"))
    assert answer.returncode == 78, answer.stderr
    assert "No sandbox can be made here" in answer.stderr
    assert "SANDBOX=none" in answer.stderr


def test_a_dispatcher_without_servers_waits_and_stops_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, **variables(tmp_path, *NOTHING, 0.1)}
    with subprocess.Popen(
        [sys.executable, "-m", "workers.dispatch"], env=environment, stderr=subprocess.PIPE, text=True
    ) as dispatcher:
        assert dispatcher.stderr is not None
        assert "started" in dispatcher.stderr.readline()
        time.sleep(1)
        assert dispatcher.poll() is None
        dispatcher.send_signal(signal.SIGTERM)
        _, errors = dispatcher.communicate(timeout=10)
    assert dispatcher.returncode == 0
    assert "dispatch_failed" in errors
