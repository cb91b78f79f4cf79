"""How a runner is started, whatever confines it: what every sandbox can say, and the small program before it."""

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from core.services.system import runner_threads
from workers import confine
from workers.process import Grouped, RunnerProcess
from workers.staging import Run

CONFINE = Path(confine.__file__)
# What private memory a process may reserve beyond its job's limit: for libraries, which reserve 0.1 GB more than they
# touch, for the stacks of four pools of threads, and so that the watcher, who names the reason, sees an excess first.
_DATA_HEADROOM = 2**29
_STACKS_PER_THREAD = 2**25
# All addresses count here, untouched ones too: importing torch and onnxruntime reserves 0.8 GB, every thread more.
_ADDRESS_HEADROOM = 4 * 2**30
# A mapped file counts as private memory although its pages are not: one reader and three measured sessions may map it.
_MAPPINGS = 4
_OPEN_FILES = 4096
_PROCESSES = 4096


@dataclass(frozen=True)
class Bounds:
    """What the kernel holds each process of a runner to, in bytes; the inputs may be mapped beside the memory."""

    memory_bytes: int
    file_bytes: int
    input_bytes: int = 0


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
        restrictions = confine.Restrictions(limits=limits_of(bounds), uid=None, parent=os.getpid())
        command = [*confining(str(CONFINE), restrictions), *program]
        tmp = str(run.tmp)
        return Grouped(spawn(command, environment(tmp), cwd=run.folder), tmp)


def environment(tmp: str) -> dict[str, str]:
    """The whole environment of a runner."""
    threads = str(runner_threads())
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
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # its own pool reserves a gibibyte at once, which counts as memory
        **dict.fromkeys(counts, threads),
    }


def limits_of(bounds: Bounds) -> confine.Limits:
    """The bounds as `confine.py` takes them."""
    most = bounds.memory_bytes + _MAPPINGS * bounds.input_bytes
    return confine.Limits(
        address_space=most + _ADDRESS_HEADROOM,
        data=most + _DATA_HEADROOM + _STACKS_PER_THREAD * runner_threads(),
        file_bytes=bounds.file_bytes,
        processes=_PROCESSES,
        open_files=_OPEN_FILES,
    )


def confining(script: str, restrictions: confine.Restrictions) -> list[str]:
    """The beginning of a command line that restricts itself before it becomes what follows."""
    return [sys.executable, "-I", "-S", script, json.dumps(restrictions)]


def spawn(
    command: list[str], env: dict[str, str], *, cwd: Path | None = None, pass_fds: tuple[int, ...] = ()
) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own, its output as pipes."""
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
