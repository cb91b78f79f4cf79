"""One whole service for the client, the command line and the examples of the documentation."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.stack import Options
from launch.supervisor import Supervisor
from modelpress.client import Client

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Stack:
    """Where the service answers, and with which key."""

    url: str
    key: str

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MODELPRESS_URL": self.url, "MODELPRESS_KEY": self.key}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("a stack")
    extra = {"MODELPRESS_WEBHOOK_ALLOW": '["127.0.0.0/8"]'}
    with Supervisor(Options(home, port=None, durable=False, extra=extra)) as supervisor:
        prepared = supervisor.start(key_name="tests")
        assert prepared.key
        yield Stack(supervisor.url, prepared.key)


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.url, stack.key) as opened:
        yield opened


@pytest.fixture
def modelpress(stack: Stack, tmp_path: Path) -> Run:
    """Run the command as a user does, in an empty folder; `env` adds to the environment."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        environment = {**stack.environment, "XDG_CONFIG_HOME": str(tmp_path / "config"), **(env or {})}
        command = [sys.executable, "-m", "modelpress", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run
