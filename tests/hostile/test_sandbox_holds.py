"""Code of an uploader that does run: what it reaches (bar S2) and how it is stopped (bar S6)."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest
from sqlalchemy import make_url

from core.settings import settings
from tests.hostile.canary import Canary
from tests.hostile.cases import case
from tests.hostile.conftest import GULLIBLE
from tests.hostile.stand import Ending, Stand
from tests.hostile.stand import stand as open_stand

EATS_MEMORY = "\nheld = []\nwhile True:\n    held.append(b'x' * (16 << 20))\n"
EATS_DISK = """
import os
for number in range(100_000):
    with open(f"{os.environ['TMPDIR']}/{number}", "wb") as file:
        file.write(os.urandom(1 << 20))
"""
FORKS = """
import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        time.sleep(0.01)
"""
SPINS = "\nwhile True:\n    pass\n"
BACKTRACKS = "\nimport re\nre.match('(a+)+$', 'a' * 60 + '!')\n"
TRIES = """
import ctypes, os, socket, sys
reached = sys.modules["__main__"].REACHED
def attempt(name, call):
    try:
        if call() != -1:
            reached.append(name)
    except (OSError, ValueError):
        pass
def connect(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as link:
        link.settimeout(2)
        link.connect(address)
for path in {files!r}:
    attempt(path, lambda: open(path, "rb").read(1) and None)
    attempt("write " + path, lambda: open(path, "ab").close())
for folder in {folders!r}:
    attempt(folder, lambda: os.listdir(folder) and None)
# The first process is the sandbox's own, which an ordinary user's runner may look at: it must hold nothing more.
first = "/proc/1/"
def more_names():
    entries = open(first + "environ", "rb").read().split(b"\\0")
    # Python names the character set by itself.
    return {{entry.partition(b"=")[0] for entry in entries if entry}} - {{*os.environb, b"LC_CTYPE"}}
def open_files():
    links = [os.readlink(first + "fd/" + number) for number in os.listdir(first + "fd")]
    return [link for link in links if link.startswith("/") and not link.startswith("/dev/")]
def strangers(folder):
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if path in {known!r}:
            continue
        if any(known.startswith(path + "/") for known in {known!r}):
            yield from strangers(path)
        else:
            yield path
attempt("/proc/1/environ", lambda: None if more_names() else -1)
attempt("/proc/1/root", lambda: None if set(os.listdir(first + "root")) - set(os.listdir("/")) else -1)
attempt("/proc/1/fd", lambda: None if open_files() else -1)
for folder in {tops!r}:
    attempt(folder, lambda: None if list(strangers(folder)) else -1)
for address in {addresses!r}:
    attempt(str(address), lambda: connect(address))
own = {{int(name) for name in os.listdir("/proc") if name.isdigit()}}
if len(own) > 2:
    reached.append(f"processes {{own}}")
attempt("kill all", lambda: os.kill(-1, 0) if len(own) > 2 else -1)
reached.extend(name for name in os.environ if name.endswith(("_URL", "KEY", "SECRET", "PASSWORD")))
"""


def fool(stand: Stand, canary: Canary, more: str) -> Ending:
    return stand.inspect(case("fooled", canary.pickled(more)))


# Where the interpreter and our code lie, which the sandbox shows.
CODE = [str(Path(__file__).parents[2]), sys.prefix, sys.base_prefix]
# What the system has in /usr anybody may see; /tmp is the runner's own.
TOPS = sorted({"/home", *(f"/{Path(code).parts[1]}" for code in CODE)} - {"/usr", "/tmp"})


class TestReach:
    def test_the_canary_tells_when_there_is_no_sandbox(self, database: str, canary: Canary) -> None:
        with open_stand({**GULLIBLE, "SANDBOX": "none"}) as unprotected:
            assert fool(unprotected, canary, "").code == "unsafe_file"
        assert canary.count() == 2  # the file and the port: what the other tests count does work

    def test_it_stays_untouched_in_the_sandbox(self, gullible: Stand, canary: Canary) -> None:
        ending = fool(gullible, canary, "")
        assert (ending.code, ending.detail) == ("unsafe_file", "reached: []")
        assert canary.count() == 0

    def test_nothing_of_the_service_is_reached(
        self, gullible: Stand, canary: Canary, broker: str, database: str, tmp_path: Path
    ) -> None:
        neighbour = settings().scratch_dir.absolute() / "runs" / "neighbour"
        neighbour.mkdir(parents=True)
        (neighbour / "request.json").write_text("another job")
        files = ["/proc/1/mem", "/etc/shadow", "/etc/passwd", "/proc/kcore", "/dev/mem"]
        files += [str(neighbour / "request.json"), str(Path.home() / ".bashrc"), __file__]
        folders = [str(neighbour), str(settings().scratch_dir), str(tmp_path)]
        files += [f"/proc/{process.pid}/environ" for process in psutil.process_iter() if process.pid > 3][:50]
        addresses = [*servers(database, broker), ("169.254.169.254", 80), ("127.0.0.1", 5432), ("127.0.0.1", 6379)]
        ending = fool(
            gullible, canary, TRIES.format(files=files, folders=folders, addresses=addresses, known=CODE, tops=TOPS)
        )
        assert (ending.code, ending.detail) == ("unsafe_file", "reached: []")
        assert canary.count() == 0


def servers(database: str, broker: str) -> Iterator[str | tuple[str, int]]:
    """Where the servers of this test listen, as sockets or ports."""
    url = make_url(database)
    folder = url.query.get("host")
    yield f"{folder}/.s.PGSQL.5432" if isinstance(folder, str) else (url.host or "127.0.0.1", url.port or 5432)
    parts = urlsplit(broker)
    yield unquote(parts.path) if parts.scheme == "unix" else (parts.hostname or "127.0.0.1", parts.port or 6379)


class TestLimits:
    @pytest.mark.parametrize(
        ("bomb", "code"),
        [
            (EATS_MEMORY, "out_of_memory"),
            (EATS_DISK, "no_space"),
            (FORKS, "protocol_violation"),
            (SPINS, "timed_out"),
            (BACKTRACKS, "timed_out"),
        ],
        ids=["memory", "disk", "forks", "spins", "backtracks"],
    )
    def test_a_bomb_ends_at_its_limit_with_a_code(self, gullible: Stand, canary: Canary, bomb: str, code: str) -> None:
        started = time.monotonic()
        ending = fool(gullible, canary, bomb)
        assert (ending.state, ending.code) == ("rejected", code), ending
        assert time.monotonic() - started < settings().inspect_seconds + 10 + 10  # limit + 10 s, and its upload
        assert canary.count() == 0
        below = psutil.Process().children(recursive=True)
        # Of one that has ended and was not waited for there is no command.
        commands = [process.as_dict(["cmdline"])["cmdline"] or () for process in below]
        assert not [command for command in commands if "tests.hostile.gullible_runner" in command]
        assert fool(gullible, canary, "").code == "unsafe_file"  # the worker takes the next one

    def test_one_that_kills_its_runner_is_rejected_after_three_tries(self, gullible: Stand, canary: Canary) -> None:
        ending = fool(gullible, canary, "\nimport os\nos.kill(os.getpid(), 9)\n")
        assert (ending.state, ending.code) == ("rejected", "worker_lost")
