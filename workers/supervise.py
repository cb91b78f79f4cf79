"""Watches one runner to its end: what it says, how long it takes, what it uses, and who wants it stopped.

Never talks to the database, so that nothing there can keep it from killing the runner in time.
"""

import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import structlog

from core.messages import Message
from workers.ending import ANSWERS, Answer, End, Outcome
from workers.lines import Lines, Violation
from workers.process import RunnerProcess, hidden_bytes, shared_out_memory, usage
from workers.staging import Run

_TICK = 0.1
_CHUNK = 1 << 16
_BLOCK = 512
_MEMORY_EVERY = 0.2
# A process fills some gibibytes a second; looking costs milliseconds, so often only when it is close to its limit.
_MEMORY_OFTEN = 0.05
_CLOSE = 0.75
_DISK_EVERY = 1.0
_ERRORS_KEPT = 1 << 14
_MAX_FILES = 100_000
# A runner is one, and starts one at a time to measure in.
_MAX_PROCESSES = 32
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a runner may use: seconds of wall time and of silence, bytes of memory and of disk."""

    wall_seconds: float
    stall_seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Ears:
    """Who is told and asked: `hear` takes a message or says that it cannot yet, `order` says whether to stop."""

    hear: Callable[[Message], bool]
    order: Callable[[], End | None]


@final
class Supervision:
    """One runner being watched."""

    def __init__(self, started: RunnerProcess, run: Run, *, limits: Limits, ears: Ears) -> None:
        self._started, self._process = started, started.process
        self._run, self._limits, self._ears = run, limits, ears
        self._lines = Lines()
        self._unheard: deque[Message] = deque()
        self._errors = bytearray()
        self._answer: Answer | None = None
        self._began = self._spoke = time.monotonic()
        self._memory_at = self._disk_at = self._began
        self._memory_every = _MEMORY_EVERY
        self._seen_excess = False
        self._kills = _kernel_kills()

    def watch(self) -> Outcome:
        """Watch until the end; none of the runner's processes is left then."""
        try:
            with selectors.DefaultSelector() as selector:
                end, detail = self._loop(selector)
        except Violation as violation:
            end, detail = End.VIOLATED, str(violation)
        finally:
            code = self._started.end()
            for pipe in (self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
        if end is End.SILENT:
            end, detail = self._explain(code)
        _log.info("runner_ended", end=end, code=code, detail=detail, seconds=round(time.monotonic() - self._began, 3))
        return Outcome(end, detail, self._answer, self._errors.decode(errors="replace"))

    def _loop(self, selector: selectors.BaseSelector) -> tuple[End, str]:
        for pipe, take in ((self._process.stdout, self._take_output), (self._process.stderr, self._take_errors)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, take)
        while True:
            # Asked before reading: what it wrote before it went is then read.
            gone = self._process.poll() is not None
            took = False
            if ready := self._pass_on():
                took = self._read(selector, 0 if gone else min(_TICK, self._memory_every))
            else:
                # Nothing more is read while its last words are not heard; the runner then waits in its own write.
                time.sleep(min(_TICK, self._memory_every))
            if (ending := self._judge()) is not None:
                return ending
            if gone and ready and not took:
                self._lines.close()
                return End.SILENT, ""

    def _read(self, selector: selectors.BaseSelector, wait: float) -> bool:
        took = False
        for key, _ in selector.select(wait):
            if data := os.read(key.fd, _CHUNK):
                key.data(data)
                took = True
            else:
                selector.unregister(key.fileobj)
        return took

    def _take_errors(self, data: bytes) -> None:
        self._errors += data
        del self._errors[:-_ERRORS_KEPT]

    def _take_output(self, data: bytes) -> None:
        for message in self._lines.feed(data):
            if self._answer is not None:
                raise Violation("The runner went on talking after its answer.")
            self._spoke = time.monotonic()
            if isinstance(message, ANSWERS):
                self._answer = message
            else:
                self._unheard.append(message)

    def _pass_on(self) -> bool:
        while self._unheard and self._ears.hear(self._unheard[0]):
            self._unheard.popleft()
        if self._unheard:
            # It is we who are slow.
            self._spoke = time.monotonic()
        return not self._unheard

    def _judge(self) -> tuple[End, str] | None:
        """Why the runner must be stopped now, if it must."""
        if (order := self._ears.order()) is not None:
            return order, ""
        now = time.monotonic()
        if self._answer is not None:
            # Its files are written; waiting until torch has put itself away would cost half a second.
            return None if self._unheard else (End.ANSWERED, "")
        if now - self._began > self._limits.wall_seconds:
            return End.TIMED_OUT, f"It ran for {self._limits.wall_seconds:g} seconds, which is its limit."
        if now - self._spoke > self._limits.stall_seconds:
            return End.STALLED, f"It made no progress for {self._limits.stall_seconds:g} seconds."
        return self._judge_usage(now)

    def _judge_usage(self, now: float) -> tuple[End, str] | None:
        if now >= self._memory_at:
            used = usage(self._process.pid)
            close = used.memory_bytes > _CLOSE * self._limits.memory_bytes
            self._memory_every = _MEMORY_OFTEN if close else _MEMORY_EVERY
            self._memory_at = now + self._memory_every
            if used.processes > _MAX_PROCESSES:
                return End.VIOLATED, f"The runner had {used.processes} processes; {_MAX_PROCESSES} are allowed."
            if (held := self._excess(used.memory_bytes)) is not None:
                limit = self._limits.memory_bytes
                return End.OUT_OF_MEMORY, f"It held {held} bytes of memory; its limit is {limit}."
        if now >= self._disk_at:
            self._disk_at = now + _DISK_EVERY
            size, files = _disk_usage(self._run.folder)
            size += hidden_bytes(self._process.pid)
            if size > (limit := self._limits.disk_bytes):
                return End.NO_SPACE, f"It wrote {size} bytes to disk; its limit is {limit}."
            if files > _MAX_FILES:
                return End.NO_SPACE, f"It made more than {_MAX_FILES} files."
        return None

    def _excess(self, held: int) -> int | None:
        """The bytes held if they are above the limit, twice in a row and without counting any of them twice."""
        if held > self._limits.memory_bytes:
            # A child between its fork and its exec shows all that its parent holds, for an instant.
            seen_before, self._seen_excess = self._seen_excess, True
            exact = shared_out_memory(self._process.pid) if seen_before else 0
            return exact if exact > self._limits.memory_bytes else None
        self._seen_excess = False
        return None

    def _explain(self, code: int) -> tuple[End, str]:
        if code >= 0:
            return End.SILENT, f"The runner ended with code {code} and no answer."
        if code == -signal.SIGKILL and _kernel_kills() > self._kills:
            return End.OUT_OF_MEMORY, "The host ran out of memory and the kernel ended the runner."
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return End.SILENT, f"The runner was ended by {name}."


def _disk_usage(folder: Path) -> tuple[int, int]:
    """Bytes on disk and number of entries below a folder; counts no further than one more than is allowed."""
    size = files = 0
    waiting = [str(folder)]
    while waiting and files <= _MAX_FILES:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    files += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
        except FileNotFoundError:
            continue
        except OSError as error:
            # Closed to us, or deeper than a path may be long: nothing that an honest runner makes.
            raise Violation(f"The runner made a folder that cannot be looked into: {error.strerror}.") from error
    return size, files


def _kernel_kills() -> int:
    """How many processes the kernel has ended for want of memory since the host started."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)
