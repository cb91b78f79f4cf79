"""Keeps a lease alive while its runner runs, and says when the runner must stop because of it.

Two clocks: the database's decides who owns a row; this host's own, which counts suspended time too, decides when an
owner that could not reach the database must assume that it no longer is one.
"""

import threading
import time
from typing import final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.database.session import transaction
from core.services import leases
from core.services.leases import Lease
from core.settings import settings
from workers.ending import End
from workers.notices import listen

CANCEL_CHANNEL = "modelpress_cancel"
_log = structlog.get_logger(__name__)
_hearts: dict[str, "Heart"] = {}


def boot_time() -> float:
    """Seconds of a clock that nobody sets and that runs while the host sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@final
class Heart:
    """Renews one lease until stopped; `since` is a `boot_time` before the lease was taken."""

    def __init__(self, lease: Lease, since: float) -> None:
        self._lease = lease
        self._renewed = since
        self._lost = False
        self._cancelled = False
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heart {lease.id}", daemon=True)

    def __enter__(self) -> "Heart":
        _hearts[self._lease.id] = self
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _hearts.pop(self._lease.id, None)
        self._stopped = True
        self._wake.set()
        self._thread.join(settings().heartbeat_seconds)

    def order(self) -> End | None:
        """Why the runner must stop now, if it must. Never waits for the database."""
        if self._lost or boot_time() - self._renewed > settings().self_fence_seconds:
            return End.LOST
        return End.CANCELLED if self._cancelled else None

    def lose(self) -> None:
        """Somebody found that the lease is another's."""
        self._lost = True

    def wake(self) -> None:
        """Beat at once, since something may have been asked of this job."""
        self._wake.set()

    def _beat(self) -> None:
        while not self._stopped:
            asked_at = boot_time()
            try:
                with transaction() as session:
                    beat = leases.renew(session, self._lease)
            except SQLAlchemyError as error:
                _log.warning("heartbeat_failed", subject=self._lease.id, error=str(error))
            else:
                if beat is None:
                    self._lost = True
                    return
                self._renewed = asked_at
                self._cancelled = self._cancelled or beat.cancel
            self._wake.wait(settings().heartbeat_seconds)
            self._wake.clear()


def listen_for_cancels(stopped: threading.Event) -> None:
    """Wake the heart of each job whose cancelling is announced, until stopped; for a thread of its own."""
    listen(CANCEL_CHANNEL, _wake, stopped)


def _wake(job: str) -> None:
    if (heart := _hearts.get(job)) is not None:
        heart.wake()
