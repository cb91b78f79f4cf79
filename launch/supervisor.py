"""Starts the servers and processes of a stack, starts a crashed one again, stops all of them in good order."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO

from launch import orphans
from launch.postgres import Postgres
from launch.process import Command, LaunchError, start, stop, tail, tie
from launch.sockets import free_port
from launch.stack import Options, Part, Prepared, environment, parts, read_prepared, setup_command
from launch.valkey import Valkey

# A worker exits with EX_CONFIG when it can make no sandbox: to start it again would not help.
_WRONG_CONFIGURATION = 78
_LONGEST_WAIT = 10.0
_STABLE_SECONDS = 30.0


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    since: float
    wait: float = 0.5
    start_at: float | None = None


class Supervisor:
    """One stack in one home folder; use it as a context manager, from a thread that lives as long as the stack."""

    def __init__(self, options: Options) -> None:
        self.options = replace(options, home=options.home.absolute())
        self.home = self.options.home
        self._servers: list[Postgres | Valkey] = []
        self._running: list[_Running] = []
        self._lock: IO[str] | None = None
        self._asked_to_stop = threading.Event()
        self._environment: dict[str, str] = {}
        self.port = 0

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of the API and of the page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that every process was given."""
        return dict(self._environment)

    def pids(self) -> dict[str, int]:
        """The process id of each living part by its name; the embedded servers are not among them."""
        return {each.part.name: each.process.pid for each in self._running if each.process.poll() is None}

    def log(self, name: str) -> Path:
        """The log of one part."""
        return self.home / "log" / f"{name}.log"

    def start(self, *, key_name: str | None = None) -> Prepared:
        """Start everything and wait until the API is ready; gives the sign-in link and, when named, a new key."""
        (self.home / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self._take_home()
        orphans.end(self.home / "children.json")
        servers = self._start_servers()
        self.port = free_port(self.options.port)
        self._environment = environment(self.options, servers, self.port)
        prepared = self.prepare(key_name)
        for part in parts(self.port):
            self._running.append(_Running(part, self._spawn(part), time.monotonic()))
        self._remember()
        self._await_api()
        return prepared

    def prepare(self, key_name: str | None) -> Prepared:
        """Bring the database up to date; make a sign-in link and, when named, a key."""
        command = self._command("setup", tuple(setup_command(key_name=key_name)[1:]))
        done = subprocess.run(
            tie(command), env=self._environment, cwd=self.home, capture_output=True, text=True, check=False
        )
        self.log("setup").write_text(done.stderr)
        if done.returncode != 0:
            raise LaunchError(f"The database could not be prepared: {tail(self.log('setup'))}")
        return read_prepared(done.stdout)

    def check(self) -> list[str]:
        """Start what has crashed again, after a growing wait; gives the names of what was started."""
        again = []
        for server in self._servers:
            if server.process is None or server.process.poll() is not None:
                _start_again(server)
                again.append(type(server).__name__.lower())
        again += [each.part.name for each in self._running if self._revive(each)]
        if again:
            self._remember()
        return again

    def watch(self) -> None:
        """Look after the stack until SIGINT or SIGTERM; call it from the main thread."""
        before = {which: signal.signal(which, self._ask_to_stop) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not self._asked_to_stop.wait(0.2):
                self.check()
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def stop(self) -> None:
        """Stop the processes together, then the servers that they need."""
        for each in self._running:
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGTERM)
        for each in self._running:
            stop(each.process, signal.SIGTERM, each.part.drain_seconds)
        self._running.clear()
        for server in reversed(self._servers):
            server.stop()
        self._servers.clear()
        (self.home / "children.json").unlink(missing_ok=True)
        if self._lock:
            self._lock.close()
            self._lock = None

    def _take_home(self) -> None:
        self._lock = (self.home / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise LaunchError(f"Modelpress already runs on {self.home}; stop it, or give another --home.") from None

    def _start_servers(self) -> dict[str, str]:
        """Start an embedded server for each address that the environment does not give."""
        given = {**os.environ, **self.options.extra}
        addresses = {}
        embedded = (("DATABASE_URL", "postgres", Postgres), ("REDIS_URL", "valkey", Valkey))
        for variable, folder, kind in embedded:
            if not given.get(variable):
                server = kind(self.home / folder, durable=self.options.durable)
                self._servers.append(server)
                addresses[variable] = server.start()
        return addresses

    def _command(self, name: str, arguments: tuple[str, ...]) -> Command:
        # The home folder as working folder, so that no folder `core` or `api` of the user's shadows our packages.
        return Command((sys.executable, *arguments), self._environment, self.log(name), cwd=self.home)

    def _spawn(self, part: Part) -> subprocess.Popen[bytes]:
        return start(self._command(part.name, part.arguments))

    def _revive(self, each: _Running) -> bool:
        """Start one part again when its wait is over; a part that ran for long starts with a short wait."""
        code = each.process.poll()
        if code is None:
            return False
        if code == _WRONG_CONFIGURATION:
            # Its last words are what is wrong and what to do about it.
            words = " ".join(tail(self.log(each.part.name)).splitlines()[-2:])
            raise LaunchError(f"The {each.part.name} worker cannot run here: {words}")
        now = time.monotonic()
        if each.start_at is None:
            each.wait = 0.5 if now - each.since > _STABLE_SECONDS else each.wait
            each.start_at = now + each.wait
            each.wait = min(2 * each.wait, _LONGEST_WAIT)
        if now < each.start_at:
            return False
        each.process, each.since, each.start_at = self._spawn(each.part), now, None
        return True

    def _await_api(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not _answers(f"{self.url}/readyz"):
            if self._running[0].process.poll() is not None or time.monotonic() > deadline:
                raise LaunchError(f"The API did not start: {tail(self.log('api'))}")
            for each in self._running[1:]:
                if each.process.poll() == _WRONG_CONFIGURATION:
                    self._revive(each)
            time.sleep(0.05)

    def _remember(self) -> None:
        servers = [server.pid for server in self._servers if server.pid]
        orphans.remember(self.home / "children.json", [*servers, *self.pids().values()])

    def _ask_to_stop(self, *_: int | FrameType | None) -> None:
        self._asked_to_stop.set()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (our own loopback address)
            return bool(answer.status == 200)
    except OSError:
        return False


def _start_again(server: Postgres | Valkey, seconds: float = 30) -> None:
    """Start a crashed server; the processes that it left need a moment to notice and to let go of its folder."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            server.start()
            return
        except LaunchError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
