"""Becomes another program that ends when its parent ends.

Run as `python -I -S tied.py SIGNAL IDENTITY PARENT PROGRAM ARGUMENTS…`. It is a program of its own because the parent
may have threads, between whose fork and exec no Python code may run. `IDENTITY` is what root becomes first, since
PostgreSQL refuses root: `same`, `namespace` (nobody inside a user namespace, still root to the files outside) or
`nobody`.
"""

import ctypes
import os
import sys

CANNOT_CHANGE = 97
NOBODY = 65534
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def _enter_namespace(libc: ctypes.CDLL) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        sys.exit(CANNOT_CHANGE)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123  (pathlib doubles the start-up)
            file.write(text)


def _become(identity: str, libc: ctypes.CDLL) -> None:
    if identity == "namespace":
        try:
            _enter_namespace(libc)
        except OSError:
            sys.exit(CANNOT_CHANGE)
    elif identity == "nobody":
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def main(arguments: list[str]) -> None:
    """Change identity, ask the kernel for the death signal, become the program."""
    death_signal, identity, parent, *program = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    _become(identity, libc)
    if sys.platform == "linux":
        # A change of credentials clears the death signal, so it comes last.
        libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != int(parent):
            sys.exit(1)  # The parent died before the kernel knew.
    os.execv(program[0], program)  # noqa: S606  (no shell is meant)


if __name__ == "__main__":
    main(sys.argv[1:])
