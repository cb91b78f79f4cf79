"""The dispatcher: sends what committed transactions left in the outbox, and sweeps. Run it as often as you like.

python -m workers.dispatch
"""

import os
import signal
import socket
import threading
import time
from types import FrameType

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.database.session import transaction
from core.errors import ModelpressError
from core.logs import configure_logs
from core.queue import OUTBOX_CHANNEL, BrokerUnavailable, count_messages, publish
from core.services import checkpoints, outbox, sweeps
from core.settings import settings
from core.storage.blobs import open_blobs
from workers import presence
from workers.notices import listen

_BATCH = 100
_AGAIN_SECONDS = 1.0
_log = structlog.get_logger(__name__)
_wake = threading.Event()
_stopped = threading.Event()


def main() -> None:
    """Dispatch until SIGTERM or SIGINT."""
    configure_logs("dispatch")
    _log.info("started", host=socket.gethostname(), pid=os.getpid())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    threading.Thread(target=_listen, name="outbox", daemon=True).start()
    presence.show_life("dispatch", settings().sandbox)
    swept_at = 0.0
    while not _stopped.is_set():
        try:
            _drain()
            if time.monotonic() - swept_at >= settings().sweep_seconds:
                swept_at = time.monotonic()
                _sweep()
                _drain()
        except SQLAlchemyError as error:
            _log.warning("dispatch_failed", error=str(error))
            _stopped.wait(_AGAIN_SECONDS)
        _wake.wait(max(0.0, swept_at + settings().sweep_seconds - time.monotonic()))
        _wake.clear()
    _log.info("stopped")


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    _stopped.set()
    _wake.set()


def _drain() -> None:
    sent = _BATCH
    while sent == _BATCH and not _stopped.is_set():
        with transaction() as session:
            sent = outbox.drain(session, publish, _BATCH)


def _sweep() -> None:
    try:
        messages = count_messages()
    except BrokerUnavailable as error:
        _log.warning("broker_unavailable", error=str(error))
        messages = None
    with transaction() as session:
        report = sweeps.sweep(session, messages)
    if report != sweeps.SweepReport():
        _log.info("swept", **{name: getattr(report, name) for name in report.__dataclass_fields__})
    _remove_checkpoints()


def _remove_checkpoints() -> None:
    """Delete the blobs of dropped checkpoints, then their rows: what is interrupted is done again."""
    with transaction() as session:
        garbage = checkpoints.garbage(session)
    if not garbage.ids:
        return
    blobs = open_blobs(settings().storage_url).of_area("checkpoints")
    try:
        for digest in garbage.sha256s:
            blobs.delete(digest)
    except ModelpressError as error:
        _log.warning("checkpoints_not_removed", error=error.detail)
        return
    with transaction() as session:
        checkpoints.forget(session, garbage.ids)


def _listen() -> None:
    listen(OUTBOX_CHANNEL, lambda _: _wake.set(), _stopped)


if __name__ == "__main__":
    main()
