"""What a whole Modelpress consists of: its processes as command lines, and the environment that they share."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SERVER_VARIABLES = ("DATABASE_URL", "REDIS_URL", "STORAGE_URL")
_WORKER = ("-m", "celery", "-A", "workers.app", "worker", "-P", "threads", "--without-gossip", "--without-mingle")


@dataclass(frozen=True)
class Options:
    """Where a stack lives and what it is told; `extra` are settings such as `MODELPRESS_LEASE_SECONDS`."""

    home: Path
    port: int | None = 8000
    durable: bool = True
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One process of the stack: its name, its arguments after `python`, and the seconds that its good end may take."""

    name: str
    arguments: tuple[str, ...]
    drain_seconds: float


def parts(port: int) -> tuple[Part, ...]:
    """The four processes: API, the worker that computes, the worker that inspects and delivers, the dispatcher."""
    address = ("--host", "127.0.0.1", "--port", str(port))
    quiet = ("--log-level", "warning", "--no-server-header", "--timeout-graceful-shutdown", "2")
    return (
        Part("api", ("-m", "uvicorn", "api.app:app", *address, *quiet), 5),
        Part("compute", (*_WORKER, "-Q", "compute", "-c", "1", "-n", "compute@%h", "-l", "WARNING"), 30),
        Part("inspect", (*_WORKER, "-Q", "inspect,deliver", "-c", "2", "-n", "inspect@%h", "-l", "WARNING"), 30),
        Part("dispatch", ("-m", "workers.dispatch"), 10),
    )


def environment(options: Options, servers: Mapping[str, str], port: int) -> dict[str, str]:
    """The environment of every process: our own, the addresses of the servers, and a share of the cores."""
    home = options.home
    address = f"http://127.0.0.1:{port}"
    made = {
        "STORAGE_URL": (home / "blobs").as_uri(),
        "MODELPRESS_SCRATCH_DIR": str(home / "scratch"),
        "MODELPRESS_PUBLIC_URL": address,
        # Two workers share the machine; threads that spin while they wait would take the cores from each other.
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {**made, **os.environ, **servers, **options.extra, "PYTHONUNBUFFERED": "1"}


def setup_command(*, key_name: str | None) -> list[str]:
    """The command that brings the database up to date, makes the first tenant, a sign-in link and perhaps a key."""
    return [sys.executable, "-m", "api.setup", "--link", *(("--key", key_name) if key_name else ())]


@dataclass(frozen=True)
class Prepared:
    """What the set-up command answered."""

    sign_in_url: str
    key: str | None


def read_prepared(output: str) -> Prepared:
    """Read the one JSON line that the set-up command prints."""
    answer = json.loads(output.strip().splitlines()[-1])
    return Prepared(sign_in_url=answer["sign_in_url"], key=answer.get("key"))
