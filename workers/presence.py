"""This worker process: its name, its sandbox, what it is busy with, whether it is leaving, and its sign of life."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from uuid import uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.database.session import transaction
from core.services import system
from core.services.system import WorkerBeat
from core.settings import settings
from workers.confinement import Sandbox
from workers.sandbox import find_sandbox

# Never the same twice: a worker that starts again must not be taken for the one that held a lease before.
WORKER_ID = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
# Set when the worker was told to stop: runners are to be killed and nothing more is to be claimed.
draining = threading.Event()
_busy: list[str] = []
_log = structlog.get_logger(__name__)


@lru_cache(maxsize=1)
def sandbox() -> Sandbox:
    """The sandbox of this process, found once; raises `sandbox_unavailable`."""
    return find_sandbox()


@contextmanager
def busy_with(subject: str) -> Iterator[None]:
    """Says in the sign of life that this process works on `subject`."""
    _busy.append(subject)
    try:
        yield
    finally:
        _busy.remove(subject)


def show_life(kind: str, sandbox_name: str) -> None:
    """Write a sign of life again and again as long as this process lives."""
    threading.Thread(target=_show_life, args=(kind, sandbox_name), name="life", daemon=True).start()


def _show_life(kind: str, sandbox_name: str) -> None:
    while True:
        try:
            with transaction() as session:
                system.beat(session, _beat(kind, sandbox_name))
        except SQLAlchemyError as error:
            _log.warning("sign_of_life_failed", error=str(error))
        time.sleep(settings().heartbeat_seconds)


def _beat(kind: str, sandbox_name: str) -> WorkerBeat:
    return WorkerBeat(
        id=WORKER_ID,
        kind=kind,
        host=socket.gethostname(),
        pid=os.getpid(),
        sandbox=sandbox_name,
        busy_with=next(iter(_busy), None),
        # Only who runs jobs measures.
        facts={system.RUNTIMES: dict(system.runtimes())} if "compute" in kind.split("+") else {},
    )
