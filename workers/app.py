"""The Celery app of the workers; importing it registers the tasks and the signals.

Start commands (each is one process, any number of each may run; the working folder does not matter):

    celery -A workers.app worker -Q compute -c 1 -P threads --without-gossip --without-mingle -n compute@%h
    celery -A workers.app worker -Q inspect,deliver -c 2 -P threads --without-gossip --without-mingle -n inspect@%h
    python -m workers.dispatch

Two workers of one kind on one host need different `-n` names. Environment of all three: `DATABASE_URL`, `REDIS_URL`,
`STORAGE_URL`, `MODELPRESS_SCRATCH_DIR` (a folder on disk, made if missing; workers of one host share it), and
optionally `SANDBOX` and every other `MODELPRESS_*` setting. `OMP_NUM_THREADS` of a worker is handed to its runner. Add
`-l WARNING` for a quiet log. SIGTERM once is a clean stop: a worker releases its job, kills its runner and exits with 0
within `drain_seconds`; the dispatcher exits at once. A worker that can make no sandbox exits with 78 and a sentence.

Threads, not processes, because a worker only supervises: the runner is a program of its own, so the pool needs neither
isolation nor a way to kill a task, and a thread can be told to drain without an exception between two bytecodes.
"""

import sys
import threading
from typing import Any

from celery.signals import celeryd_after_setup, worker_ready, worker_shutting_down

from core.errors import ModelpressError
from core.logs import configure_logs
from core.queue import app
from core.settings import settings
from workers import presence
from workers.deliver_webhook import deliver_webhook
from workers.heart import listen_for_cancels
from workers.inspect import inspect
from workers.run_job import run_job

_EX_CONFIG = 78
# The queues whose tasks start a runner.
_NEED_SANDBOX = frozenset({"compute", "inspect"})

for _task in (inspect, run_job, deliver_webhook):
    app.task(name=_task.__name__)(_task)


def _prepare(instance: Any, **_: object) -> None:
    """Refuse to start where the runner cannot be confined."""
    queues = _queues(instance.app)
    configure_logs(_kind(queues))
    settings().scratch_dir.mkdir(parents=True, exist_ok=True)
    if not _NEED_SANDBOX & queues:
        return
    try:
        presence.sandbox()
    except ModelpressError as error:
        sys.stderr.write(f"{error.detail}\n{error.hint}\n")
        sys.exit(_EX_CONFIG)


def _start_threads(sender: Any, **_: object) -> None:
    queues = _queues(sender.app)
    sandbox = presence.sandbox().name if _NEED_SANDBOX & queues else settings().sandbox
    presence.show_life(_kind(queues), sandbox)
    if "compute" in queues:
        # It listens while the worker drains too: what is being given back may be cancelled.
        never = threading.Event()
        threading.Thread(target=listen_for_cancels, args=(never,), name="cancels", daemon=True).start()


def _drain(**_: object) -> None:
    presence.draining.set()


celeryd_after_setup.connect(_prepare)
worker_ready.connect(_start_threads)
worker_shutting_down.connect(_drain)


def _queues(celery: Any) -> frozenset[str]:
    return frozenset(celery.amqp.queues.consume_from)


def _kind(queues: frozenset[str]) -> str:
    return "+".join(sorted(queues))
