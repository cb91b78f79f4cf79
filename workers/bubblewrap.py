"""The sandbox: bubblewrap, an identity of its own, a system call filter, rlimits.

The runner sees a read-only system, its inputs, and its own folders to write to; no network, no other process.
"""

import json
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, final

from core.errors import ModelpressError
from core.settings import settings
from workers import confine
from workers.confinement import CONFINE, Bounds, Sandbox, confining, environment, limits_of, spawn
from workers.process import Namespaced, RunnerProcess
from workers.seccomp import filter_program
from workers.staging import Run

# What root becomes before the runner starts: accounts that own nothing and that nothing else runs as. Each run has one,
# so that the kernel counts its processes apart from those of other runs.
RUNNER_UIDS = range(64_242, 65_242)
# Threads count too: torch, the runtime, arrow and tokenizers have pools of one a core.
_PROCESSES, _PROCESSES_PER_CORE = 64, 16
# Before it Linux counted the processes of an account in all user namespaces together.
_COUNTED_APART = (5, 14)
_NOBODY = "65534"
_JOB = "/job"
_TMP = "/job/tmp"
_SYSTEM = tuple(
    Path(name)
    for name in ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
)
# torch and onnxruntime count the cores there.
_PROCESSORS = Path("/sys/devices/system/cpu")


@final
class Bubblewrap(Sandbox):
    """Namespaces made by bubblewrap. Root drops to one of `RUNNER_UIDS`; others map themselves in a user namespace."""

    name = "bwrap"

    def __init__(self, binary: Path, *, drops: bool) -> None:
        self._binary = binary
        self._drops = drops

    def __repr__(self) -> str:
        return f"{self._binary} ({'real root' if self._drops else 'user namespace'})"

    def as_kind(self, *, drops: bool) -> "Bubblewrap":
        """The same binary as root or in a user namespace."""
        return Bubblewrap(self._binary, drops=drops)

    def workdir(self, run: Run) -> str:
        """Where the runner finds `request.json` and `out`."""
        del run
        return _JOB

    def inputs(self, run: Run) -> tuple[str, ...]:
        """Where the runner finds its inputs, in the order of `run.inputs`."""
        return tuple(f"{_JOB}/in/{position}" for position in range(len(run.inputs)))

    def measuring_lock(self, run: Run) -> str:
        """Where the runner finds the measuring lock of the host."""
        del run
        return f"{_JOB}/measuring.lock"

    def start(self, run: Run, program: tuple[str, ...], bounds: Bounds) -> RunnerProcess:
        """Start `program` in fresh namespaces on a read-only system."""
        if self._drops:
            for folder in (run.out, run.tmp, run.shm):
                os.chown(folder, _account(run), _account(run))
        information, informed = os.pipe()
        with os.fdopen(information, "rb") as answer, tempfile.TemporaryFile() as calls:
            try:
                command = [*self._outside(run, calls, informed), *self._inside(run, program, bounds)]
                process = spawn(command, {}, pass_fds=(informed, calls.fileno()))
            finally:
                os.close(informed)
            return Namespaced(process, _first_process(answer))

    def _outside(self, run: Run, calls: BinaryIO, informed: int) -> Iterator[str]:
        yield from confining(str(CONFINE), confine.Restrictions(limits=None, uid=None, parent=os.getpid()))
        yield from (str(self._binary), "--die-with-parent", "--new-session", "--cap-drop", "ALL")
        if self._drops:
            yield from ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
            yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        else:
            yield from ("--unshare-all", "--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY)
        yield from ("--hostname", "runner", "--info-fd", str(informed), "--clearenv")
        for name, value in environment(_TMP).items():
            yield from ("--setenv", name, value)
        yield from _mounts(run)
        if (program := filter_program()) is not None:
            calls.write(program)
            calls.seek(0)
            yield from ("--seccomp", str(calls.fileno()))
        yield from ("--chdir", _JOB, "--")

    def _inside(self, run: Run, program: tuple[str, ...], bounds: Bounds) -> list[str]:
        uid = _account(run) if self._drops else None
        limits = limits_of(bounds)
        if self._drops or _release() >= _COUNTED_APART:
            limits["processes"] = _PROCESSES + _PROCESSES_PER_CORE * (os.cpu_count() or 1)
        restrictions = confine.Restrictions(limits=limits, uid=uid, parent=None)
        return [*confining(f"{_JOB}/{CONFINE.name}", restrictions), *program]


def _account(run: Run) -> int:
    return RUNNER_UIDS[zlib.crc32(str(run.folder).encode()) % len(RUNNER_UIDS)]


def _release() -> tuple[int, ...]:
    """Version of the kernel: (6, 1)."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def _mounts(run: Run) -> Iterator[str]:
    mounted = (*_SYSTEM, _PROCESSORS, *_python())
    for path in mounted:
        # bubblewrap would make the folders above it for their owner only.
        for above in reversed(path.parents[:-1]):
            yield from ("--dir", str(above))
        yield from ("--ro-bind-try", str(path), str(path))
    yield from ("--proc", "/proc", "--dev", "/dev", "--dir", _JOB, "--dir", f"{_JOB}/in")
    yield from ("--ro-bind", str(CONFINE), f"{_JOB}/{CONFINE.name}")
    yield from ("--ro-bind-try", str(run.request), f"{_JOB}/{run.request.name}")
    for position, path in enumerate(run.inputs):
        yield from ("--ro-bind", str(path), f"{_JOB}/in/{position}")
    yield from ("--ro-bind", str(run.measuring_lock), f"{_JOB}/measuring.lock")
    for folder in (run.out, run.tmp):
        yield from ("--bind", str(folder), f"{_JOB}/{folder.name}")
    yield from ("--bind", str(run.shm), "/dev/shm")  # noqa: S108  (a name in the sandbox)
    # Packages that live below /tmp have made it a folder by now; TMPDIR names the runner's own.
    if not any(path.is_relative_to("/tmp") for path in mounted):  # noqa: S108  (a name in the sandbox)
        yield from ("--symlink", _TMP, "/tmp")  # noqa: S108  (a name in the sandbox)
    # What is left writable in / and /dev would be memory that nobody counts; in /proc there is the kernel to
    # be set up, which root in a user namespace may do, for bubblewrap covers only what it finds writable.
    yield from ("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/")


def _python() -> list[Path]:
    """The interpreter, its packages, and those of our packages that a runner needs, wherever they are installed."""
    prefixes = {Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)}
    prefixes |= {prefix.resolve() for prefix in prefixes}
    prefixes.add(Path(sys.executable).resolve().parent.parent)
    found = [*sorted(prefixes), *_package("core"), *_package(settings().runner_module)]
    return [path for path in found if path != Path("/usr")]


def _package(name: str) -> list[Path]:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModelpressError("sandbox_unavailable", f"The package {name} is not installed beside this worker.")
    return [Path(place) for place in spec.submodule_search_locations or (spec.origin,)]


def _first_process(answer: BinaryIO) -> int | None:
    text = answer.read()
    return int(json.loads(text)["child-pid"]) if text else None
