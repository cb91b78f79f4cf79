"""Runs the test suite: `run_tests.py [ARGUMENTS…]`, with `--servers` on this machine's PostgreSQL and Redis.

Without arguments all of it runs, on all processors; a part runs in one process, which prints as it goes. It gets itself
a browser first. Where none can be had it says so in its last lines, and fails when CI is set.
"""

import os
import socket
import subprocess
import sys

import psycopg
from browser import get_browser

_DATABASE = "postgresql://postgres@127.0.0.1:5432/postgres"
_BROKER = "redis://127.0.0.1:6379/9"
_NO_TESTS = 5
# Each process holds torch and servers of its own.
_MOST_PROCESSES = 8


def main(arguments: list[str]) -> int:
    """Run and give pytest's exit code."""
    if arguments[:1] == ["--servers"]:
        return run_on_servers(arguments[1:])
    browser = get_browser()
    if browser:
        return run_pytest([*spread(arguments), *arguments], {"MODELPRESS_TEST_BROWSER": browser})
    code = run_pytest([*spread(arguments), "-m", "not browser", *arguments], {})
    say("The browser tests did NOT run: there is no Chromium here and none could be had.")
    say("Install one (`apt-get install chromium`) or name one (`MODELPRESS_TEST_BROWSER=/path/to/chrome`).")
    return code or int(bool(os.environ.get("CI")))


def run_on_servers(arguments: list[str]) -> int:
    """Run what talks to database and broker once more on this machine's servers, where they answer."""
    database = os.environ.get("MODELPRESS_TEST_DATABASE_URL", _DATABASE)
    broker = os.environ.get("MODELPRESS_TEST_REDIS_URL", _BROKER)
    if why := why_not(database):
        say(f"The tests on this machine's own servers did not run: {why}.")
        return 0
    # The chaos tests empty their broker, which must not happen to one that others use.
    selection = [*spread(arguments), "-m", "servers and not chaos and not browser", *arguments]
    named = {"MODELPRESS_TEST_DATABASE_URL": database, "MODELPRESS_TEST_REDIS_URL": broker}
    code = run_pytest(selection, named)
    # A part of the suite may have none of them; the whole has.
    return 0 if code == _NO_TESTS and arguments else code


def why_not(database: str) -> str | None:
    """Why the servers cannot be used, None when they can."""
    try:
        with psycopg.connect(database, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return f"PostgreSQL does not let us in ({str(error).splitlines()[0]}); MODELPRESS_TEST_DATABASE_URL names one"
    if "MODELPRESS_TEST_REDIS_URL" in os.environ:
        return None
    try:
        with socket.create_connection(("127.0.0.1", 6379), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(16)
    except OSError:
        answer = b""
    return None if answer.startswith(b"+PONG") else "no Redis answers at 127.0.0.1:6379"


def spread(arguments: list[str]) -> list[str]:
    """The options that run whole files in several processes, in the order in which `tests/conftest.py` puts them."""
    processes = min(os.cpu_count() or 1, _MOST_PROCESSES)
    if arguments or processes == 1:
        return []
    return ["-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder"]


def run_pytest(arguments: list[str], named: dict[str, str]) -> int:
    """Run pytest on one thread a process: threads that spin slow down a machine that is shared."""
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ, **named}
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment, check=False).returncode


def say(sentence: str) -> None:
    """Print a line at once, in order with what pytest prints."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
