"""One running runner: its pipes, what it uses, and the end of all its processes."""

import contextlib
import os
import select
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import psutil

_GONE_SECONDS = 10.0
_KILL_SECONDS = 1.0
_BLOCK = 512


@dataclass(frozen=True)
class Usage:
    """What a runner and its children hold: anonymous and shared memory in bytes, and how many processes they are."""

    memory_bytes: int
    processes: int


class RunnerProcess(Protocol):
    """A started runner with `stdout` and `stderr` as pipes."""

    process: "subprocess.Popen[bytes]"

    def end(self) -> int:
        """Kill whatever is left of it, wait until all of it is gone, and give its exit code (negative: a signal)."""
        ...


@final
class Namespaced:
    """A runner in a process namespace of its own: when the first process of the namespace dies, all of it dies."""

    def __init__(self, process: "subprocess.Popen[bytes]", first: int | None) -> None:
        self.process = process
        # A descriptor, not a number, since a number may belong to another process by the time it is used.
        self._first = None
        if first is not None:
            with contextlib.suppress(ProcessLookupError):
                self._first = os.pidfd_open(first)

    def end(self) -> int:
        """Kill whatever is left of it, wait until all of it is gone, and give its exit code (negative: a signal)."""
        if self._first is None:
            self.process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            # It is readable once the process has ended, and the kernel lets it end after all others of its namespace.
            select.select([self._first], [], [], _GONE_SECONDS)
            os.close(self._first)
            self._first = None
        code = self.process.wait(_GONE_SECONDS)
        # bubblewrap says 128 + n for a program that signal n ended.
        return 128 - code if code > 128 else code


@final
class Grouped:
    """A runner without a sandbox: its process group, its children, and what has its folder `tmp` as TMPDIR are killed.

    A child that leaves its group and clears its environment once its parents have ended is not found.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", tmp: str) -> None:
        self.process = process
        self._tmp = tmp

    def end(self) -> int:
        """Kill whatever is left of it, wait until all of it is gone, and give its exit code (negative: a signal)."""
        # Once it has been waited for, its number may be another process's.
        members = _members(self.process.pid) if self.process.returncode is None else []
        if members:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        _kill(members)
        code = self.process.wait(_GONE_SECONDS)
        until = time.monotonic() + _GONE_SECONDS
        # What is found may start more before it is killed.
        while (left := _started_in(self._tmp)) and time.monotonic() < until:
            _kill(left)
        return code


def usage(pid: int) -> Usage:
    """What the process `pid` and its children use now, memory that they share counted for each; zeros when gone."""
    members = _members(pid)
    return Usage(sum(resident(member) for member in members), len(members))


def shared_out_memory(pid: int) -> int:
    """Bytes that the process and its children hold, memory that they share counted once. Slower than `usage`."""
    return sum(_proportional(member) for member in _members(pid))


def hidden_bytes(pid: int) -> int:
    """Bytes of files that the process and its children hold open and that have no name: deleted, or never named."""
    sizes: dict[tuple[int, int], int] = {}
    for member in _members(pid):
        with contextlib.suppress(OSError), os.scandir(f"/proc/{member.pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found = entry.stat()
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK
    return sum(sizes.values())


def _kill(processes: list[psutil.Process]) -> None:
    """Kill them, and wait a while until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=_KILL_SECONDS)


def _started_in(tmp: str) -> list[psutil.Process]:
    """The processes whose environment names the folder, which children inherit."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("TMPDIR") == tmp and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _members(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _proportional(process: psutil.Process) -> int:
    found = _field_sum(process, "smaps_rollup", ("Pss_Anon", "Pss_Shmem"))
    return resident(process) if found is None else found


def resident(process: psutil.Process) -> int:
    """Bytes that a process holds, shared memory included; pages of mapped files do not count.

    The kernel takes those back when it needs the memory.
    """
    found = _field_sum(process, "status", ("RssAnon", "RssShmem"))
    if found is None:
        with contextlib.suppress(psutil.Error):
            return int(process.memory_info().rss)
    return found or 0


def _field_sum(process: psutil.Process, file: str, names: tuple[str, ...]) -> int | None:
    try:
        text = Path(f"/proc/{process.pid}/{file}").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return sum(int(fields.get(name, "0 kB").split()[0]) * 1024 for name in names)
