"""The measuring lock of a host: who holds it is the only one that measures time there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READ_ALL_WRITE_OWNER = 0o644


@contextmanager
def hold_measuring_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file, waiting for it; it is given back by the kernel if the process dies."""
    # Reading is enough for flock, and inside a sandbox the file may be read-only.
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, READ_ALL_WRITE_OWNER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
