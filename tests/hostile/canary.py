"""A file and a port outside of the sandbox that hostile code tries to reach, and code that tries."""

import contextlib
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TRIES = """
import pathlib, socket
try:
    pathlib.Path({path!r}).touch()
except OSError:
    pass
try:
    socket.create_connection(("127.0.0.1", {port}), 2).close()
except OSError:
    pass
"""


class Bomb:
    """An object that runs code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (exec, (self.code, {}))


@dataclass(frozen=True)
class Canary:
    """What must stay untouched."""

    path: Path
    listener: socket.socket

    @property
    def code(self) -> str:
        """Python that touches the file and connects to the port, as far as it can."""
        return _TRIES.format(path=str(self.path), port=self.listener.getsockname()[1])

    def pickled(self, more: str = "", protocol: int = 2) -> bytes:
        """A pickle that runs the code, and `more` after it."""
        return pickle.dumps(Bomb(self.code + more), protocol)

    def count(self) -> int:
        """How often it was reached since the last time; forgets it."""
        found = int(self.path.exists())
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
                found += 1
        return found


@contextmanager
def set_out(folder: Path) -> Iterator[Canary]:
    """A canary in `folder` and on a port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.setblocking(False)
        yield Canary(folder / "canary", listener)
