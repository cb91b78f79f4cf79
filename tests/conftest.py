"""Real servers for the tests: one PostgreSQL and one Valkey a process, one cloned database a test."""

import fcntl
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from core.database.schema import upgrade
from core.database.session import engine, transaction
from core.database.tables import TenantRow
from core.ids import new_id
from core.settings import settings
from launch.postgres import Postgres
from launch.valkey import Valkey

SERVER_FIXTURES = {"database", "broker", "postgres", "valkey"}
LONG = ("chaos", "slow", "browser")
# Seconds that the threads of a test have to end after it; those of libraries that live as long as the process may stay.
GRACE = 10
OF_LIBRARIES = {"tqdm_monitor"}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """What talks to PostgreSQL or Redis is run again on the machine's own servers; files that take long come first."""
    # Before pytest chooses by marks.
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)
    yield
    # The rank of a file is that of its longest test, so that no process is left with a long one at the end.
    ranks = {path: min(map(_rank, found)) for path, found in _by_file(items).items()}
    items.sort(key=lambda item: ranks[item.path])


def _by_file(items: list[pytest.Item]) -> dict[Path, list[pytest.Item]]:
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    return files


def _rank(item: pytest.Item) -> int:
    return next((place for place, mark in enumerate(LONG) if item.get_closest_marker(mark)), len(LONG))


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where several processes share the suite, those that go by a clock run while no other test does."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    alone = request.node.get_closest_marker("chaos") is not None
    folder = tmp_path_factory.getbasetemp().parent
    with (folder / "turn.gate").open("w") as gate, (folder / "turn.lock").open("w") as lock:
        # Who waits to be alone holds the gate, so that no others go past.
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A test leaves the process as it found it, so that tests pass in any order."""
    environment, configured = dict(os.environ), structlog.is_configured()
    threads, handlers = set(threading.enumerate()), list(logging.root.handlers)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    yield
    modes = torch and (torch.is_grad_enabled(), torch.get_default_dtype())
    if torch:
        # What one test leaves must not fail those after it.
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    if engine.cache_info().currsize:
        engine().dispose()
    _forget_caches()
    if structlog.is_configured() and not configured:
        structlog.reset_defaults()
    for handler in logging.root.handlers[:]:
        # Those of pytest come and go with the parts of a test.
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            logging.root.removeHandler(handler)
    deadline = time.monotonic() + GRACE
    # One that was not started by Python, and only asked for its name, cannot be waited for.
    left = [
        thread
        for thread in threading.enumerate()
        if not (thread in threads or thread.name in OF_LIBRARIES or isinstance(thread, threading._DummyThread))
    ]
    for thread in left:
        thread.join(max(deadline - time.monotonic(), 0))
    # A listener that goes on would find the database of the test gone.
    assert [thread.name for thread in left if thread.is_alive()] == []
    assert not torch or modes == (True, torch.float32)


def administer(server: str, statement: str, *names: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def with_database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server: the embedded one, or MODELPRESS_TEST_DATABASE_URL."""
    if given := os.environ.get("MODELPRESS_TEST_DATABASE_URL"):
        yield given
        return
    server = Postgres(tmp_path_factory.mktemp("postgres"), durable=False)
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Valkey or Redis server: the embedded one, or MODELPRESS_TEST_REDIS_URL."""
    if given := os.environ.get("MODELPRESS_TEST_REDIS_URL"):
        yield given
        return
    server = Valkey(tmp_path_factory.mktemp("valkey"), durable=False)
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """The name of a migrated database that tests clone."""
    name = f"modelpress_test_{uuid.uuid4().hex[:12]}"
    administer(postgres, "CREATE DATABASE {}", name)
    upgrade(with_database(postgres, name))
    yield name
    administer(postgres, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def database(postgres: str, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a fresh database; the settings of this process point at it and at a fresh blob folder."""
    name = f"{template}_{uuid.uuid4().hex[:8]}"
    administer(postgres, "CREATE DATABASE {} TEMPLATE {}", name, template)
    url = with_database(postgres, name)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("STORAGE_URL", (tmp_path / "blobs").as_uri())
    monkeypatch.setenv("MODELPRESS_SCRATCH_DIR", str(tmp_path / "scratch"))
    # Nothing listens there: a test that needs a broker asks for it.
    monkeypatch.setenv("REDIS_URL", os.environ.get("REDIS_URL", "redis://127.0.0.1:9/0"))
    _forget_caches()
    yield url
    if engine.cache_info().currsize:
        engine().dispose()
    _forget_caches()
    administer(postgres, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def broker(valkey: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the broker; every test has its own prefix of keys."""
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("MODELPRESS_QUEUE_PREFIX", f"test-{uuid.uuid4().hex[:8]}:")
    settings.cache_clear()
    yield valkey
    settings.cache_clear()


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """One transaction on the fresh database, committed at the end of the test."""
    with transaction() as opened:
        yield opened


@pytest.fixture
def tenant(database: str) -> str:
    """A tenant that is already committed."""
    return make_tenant()


def make_tenant() -> str:
    identifier = new_id("tnt")
    with transaction() as session:
        session.add(TenantRow(id=identifier, name="test"))
    return identifier


def _forget_caches() -> None:
    settings.cache_clear()
    engine.cache_clear()
