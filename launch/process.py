"""Child processes: started so that they die with their parent, stopped in good order."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Identity = Literal["same", "namespace", "nobody"]
_TIED = Path(__file__).with_name("tied.py")


class LaunchError(Exception):
    """Something could not be started; the message says what to do about it."""


@dataclass(frozen=True)
class Command:
    """What to run: a program with an absolute path and its arguments, and what the kernel sends it if we die."""

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path | None = None
    death_signal: signal.Signals = signal.SIGKILL
    identity: Identity = "same"


def tie(command: Command) -> list[str]:
    """The arguments that run `command` so that it dies with this process."""
    program = shutil.which(command.argv[0])
    if program is None:
        raise LaunchError(f"There is no program {command.argv[0]}.")
    shim = [sys.executable, "-I", "-S", str(_TIED)]
    return [*shim, str(int(command.death_signal)), command.identity, str(os.getpid()), program, *command.argv[1:]]


def start(command: Command) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, its output appended to the log.

    The thread that calls this must live as long as the child: the kernel sends the death signal when it ends.
    """
    with command.log.open("ab") as log:
        return subprocess.Popen(
            tie(command),
            env=dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(command: Command) -> int:
    """Run a child to its end and give its exit code."""
    return start(command).wait()


def stop(process: subprocess.Popen[bytes], how: signal.Signals, seconds: float) -> bool:
    """Signal a child and wait; kill its whole group when the time is over. True when it went by itself."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


def root_identity() -> Identity:
    """What a server that refuses root must become: itself when we are not root, else the gentlest way that works."""
    if os.geteuid() != 0:
        return "same"
    probe = Command(["true"], dict(os.environ), Path(os.devnull), identity="namespace")
    return "namespace" if run(probe) == 0 else "nobody"


def tail(log: Path, characters: int = 800) -> str:
    """The end of a log, for an error's sentence."""
    return log.read_text(errors="replace")[-characters:].strip() if log.exists() else ""
