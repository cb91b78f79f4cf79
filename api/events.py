"""Following a job live: server-sent events that resume, woken by PostgreSQL's NOTIFY on one connection a process."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg
import structlog
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from core.database.session import read_only
from core.resources.job import StreamEvent
from core.services import stream
from core.settings import settings

RECONNECT_SECONDS = 1.0
# Also how late a reader may be when a notification was lost.
PING_SECONDS = 15.0
BATCH = 500

_log = structlog.get_logger("api")


class StreamWatch:
    """Listens for the streams of all jobs and wakes whoever follows one of them."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the block runs."""
        task = asyncio.create_task(self._listen_always())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @contextmanager
    def waiting(self, job: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job's stream has grown."""
        woken = asyncio.Event()
        self._waiting[job].add(woken)
        try:
            yield woken
        finally:
            self._waiting[job].discard(woken)
            if not self._waiting[job]:
                del self._waiting[job]

    async def _listen_always(self) -> None:
        while True:
            try:
                await self._listen()
            except psycopg.Error as error:
                _log.warning("listening was cut", error=str(error))
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        address = settings().database_url.replace("+psycopg", "", 1)
        async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
            await connection.execute(f"LISTEN {stream.CHANNEL}")
            # What was told while nobody listened is lost: everyone looks once.
            for job in list(self._waiting):
                self._wake(job)
            async for notification in connection.notifies():
                self._wake(notification.payload)

    def _wake(self, job: str) -> None:
        for woken in self._waiting.get(job, ()):
            woken.set()


async def follow(watch: StreamWatch, tenant: str, job: str, after: int) -> AsyncIterator[StreamEvent | None]:
    """The events of a job after number `after`, as they come, to its end; None now and then while nothing happens."""
    with watch.waiting(job) as woken:
        while True:
            woken.clear()
            events, ended = await run_in_threadpool(read, tenant, job, after)
            for event in events:
                yield event
                after = event.seq
            if ended and not events:
                return
            if events:
                continue
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await woken.wait()
            except TimeoutError:
                yield None


def read(tenant: str, job: str, after: int) -> tuple[list[StreamEvent], bool]:
    """The next events after number `after`, and whether the job had ended before they were read."""
    with read_only() as session:
        ended = stream.is_over(session, tenant, job)
        return stream.after(session, tenant, job, after, limit=BATCH), ended


async def encode(events: AsyncIterator[StreamEvent | None]) -> AsyncIterator[bytes]:
    """The events as `text/event-stream`; the id of each is its number, which `Last-Event-ID` resumes from."""
    yield format_sse_event(retry=int(RECONNECT_SECONDS * 1000))
    async for event in events:
        yield (
            KEEPALIVE_COMMENT
            if event is None
            else format_sse_event(event=event.type, id=str(event.seq), data_str=event.model_dump_json())
        )
