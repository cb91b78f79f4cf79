"""Takes what a running job says to the database, in batches, on a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import final

import structlog
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from core.database.session import transaction
from core.messages import (
    ArtifactMessage,
    CheckpointMessage,
    LogMessage,
    Message,
    MetricMessage,
    ProgressMessage,
    StepMessage,
)
from core.services import attempts
from core.services.attempts import StagedCheckpoint
from core.services.leases import Lease, LeaseLost
from workers.ending import End
from workers.heart import Heart
from workers.lines import Violation

_FLUSH_SECONDS = 0.5
_WAITING = 2000
_MAX_ARTIFACTS = 64
_MAX_CHECKPOINTS = 10_000
Take = Callable[[CheckpointMessage], StagedCheckpoint | None]
_log = structlog.get_logger(__name__)


@final
class Reporter:
    """What one job says; memory is bounded, and the runner waits when the database is slower than it.

    `take` brings the files of a checkpoint to the blobs, or gives None where they cannot be kept now.
    """

    def __init__(self, lease: Lease, heart: Heart, keys: Sequence[str], take: Take) -> None:
        self._lease, self._heart = lease, heart
        self._keys, self._take_files = keys, take
        self._checkpoints = 0
        self._waiting: queue.Queue[Message] = queue.Queue(_WAITING)
        self._failure: Exception | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._report, name=f"reporter {lease.id}", daemon=True)
        self.artifacts: list[ArtifactMessage] = []

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write down what still waits, unless the lease is lost."""
        self._closing.set()
        self._thread.join()

    def hear(self, message: Message) -> bool:
        """Take one message, or say that it must be offered again; raises `Violation`."""
        if isinstance(message, ArtifactMessage):
            self.artifacts.append(message)
            if len(self.artifacts) > _MAX_ARTIFACTS:
                raise Violation(f"The runner announced more than {_MAX_ARTIFACTS} artifacts.")
            return True
        if isinstance(message, CheckpointMessage):
            self._count(message)
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            return False
        return True

    def _count(self, message: CheckpointMessage) -> None:
        self._checkpoints += 1
        if self._checkpoints > _MAX_CHECKPOINTS or message.step >= len(self._keys):
            raise Violation("The runner announced a checkpoint of no step, or too many of them.")

    def check(self) -> None:
        """Raise what kept the last batch from being written: a `Violation`, or a fault of ours."""
        if self._failure is not None:
            raise self._failure

    def _report(self) -> None:
        while self._failure is None:
            closing = self._closing.is_set()
            if batch := self._take():
                try:
                    self._write(batch)
                except DataError as error:
                    self._failure = Violation(f"The runner said what cannot be stored: {error.orig}.")
                except Exception as error:  # noqa: BLE001  (the edge of a thread; the task raises it)
                    self._failure = error
            elif closing:
                return
            self._closing.wait(_FLUSH_SECONDS)

    def _take(self) -> list[Message]:
        batch: list[Message] = []
        while len(batch) < _WAITING:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _write(self, batch: Sequence[Message]) -> None:
        """In the order in which it was said: a checkpoint stands for what was measured before it."""
        for is_checkpoint, group in groupby(batch, key=lambda message: isinstance(message, CheckpointMessage)):
            if is_checkpoint:
                for message in group:
                    self._write_checkpoint(message)
            else:
                self._commit(partial(_record, lease=self._lease, batch=list(group)))

    def _write_checkpoint(self, message: Message) -> None:
        kept = self._take_files(message) if isinstance(message, CheckpointMessage) else None
        if kept is not None:
            self._commit(lambda session: attempts.record_checkpoint(session, self._lease, self._keys, kept))

    def _commit(self, action: Callable[[Session], None]) -> None:
        while self._heart.order() is not End.LOST:
            try:
                with transaction() as session:
                    action(session)
            except LeaseLost:
                self._heart.lose()
            except OperationalError as error:
                # The database is away; the lease decides how long that may last.
                _log.warning("report_failed", job=self._lease.id, error=str(error))
                time.sleep(_FLUSH_SECONDS)
            else:
                return


def _record(session: Session, lease: Lease, batch: Sequence[Message]) -> None:
    others = (message for message in batch if not isinstance(message, ProgressMessage))
    for kind, group in groupby(others, key=type):
        messages = list(group)
        if kind is LogMessage:
            attempts.record_logs(session, lease, [message for message in messages if isinstance(message, LogMessage)])
        elif kind is MetricMessage:
            found = [message for message in messages if isinstance(message, MetricMessage)]
            attempts.record_metrics(session, lease, found)
        else:
            for message in messages:
                if isinstance(message, StepMessage):
                    attempts.record_step(session, lease, message)
    progress = [message for message in batch if isinstance(message, ProgressMessage)]
    if progress:
        # Between two flushes only the last one is worth telling.
        attempts.record_progress(session, lease, progress[-1])
