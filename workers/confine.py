"""Takes from a process what a runner must not have, then becomes the runner.

Run as `python -I -S confine.py RESTRICTIONS PROGRAM ARGUMENTS…` with a JSON object (see `Restrictions`). It is a
program of its own because a supervisor has threads, between whose fork and exec no Python code may run; standard
library only.
"""

import contextlib
import ctypes
import json
import os
import resource
import sys
from typing import TypedDict

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9


class Limits(TypedDict):
    """What the kernel holds the program to, in bytes and numbers."""

    address_space: int
    data: int
    file_bytes: int
    processes: int
    open_files: int


class Restrictions(TypedDict):
    """The limits, the number of the user to become, and the process to die with; None leaves a thing as it is."""

    limits: Limits | None
    uid: int | None
    parent: int | None


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _be_killed_first() -> None:
    # When the host runs out of memory the kernel is to take the runner, not the database beside it.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123  (pathlib doubles the start-up)
        file.write("1000")


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # The parent died before the kernel knew.


def _keep_to(limits: Limits) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_NPROC, limits["processes"])
    # Last, since whatever follows it must fit in.
    _limit(resource.RLIMIT_DATA, limits["data"])
    _limit(resource.RLIMIT_AS, limits["address_space"])


def main(arguments: list[str]) -> None:
    """Restrict this process and become the program."""
    restrictions: Restrictions = json.loads(arguments[0])
    program = arguments[1:]
    _be_killed_first()
    if restrictions["uid"] is not None:
        _become(restrictions["uid"])
    if restrictions["parent"] is not None:
        _die_with(restrictions["parent"])
    if restrictions["limits"] is not None:
        _keep_to(restrictions["limits"])
    os.execv(program[0], program)  # noqa: S606  (no shell is meant)


if __name__ == "__main__":
    main(sys.argv[1:])
