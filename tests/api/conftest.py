"""The application on a fresh database, and two tenants with keys."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.app import create_app
from core.database.session import transaction
from core.resources.system import SCOPES, KeyCreate, Scope
from core.services import keys
from tests.conftest import make_tenant


@dataclass(frozen=True)
class User:
    """A tenant, and the header of a key that may do everything."""

    tenant: str
    headers: dict[str, str]


def bearer(tenant: str, *scopes: Scope) -> dict[str, str]:
    with transaction() as session:
        made = keys.create(session, tenant, KeyCreate(name="test", scopes=scopes))
    return {"Authorization": f"Bearer {made.token}"}


def make_user() -> User:
    tenant = make_tenant()
    return User(tenant, bearer(tenant, *SCOPES))


@pytest.fixture
def alice(database: str) -> User:
    return make_user()


@pytest.fixture
def bob(database: str) -> User:
    return make_user()


@pytest.fixture
def client(database: str) -> Iterator[TestClient]:
    """The application without a socket; it starts and stops as the real one does."""
    with TestClient(create_app(), base_url="http://127.0.0.1", follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def live(database: str) -> Iterator[httpx2.Client]:
    """A client of the application on a real socket, for what streams."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    )
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    with httpx2.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20) as opened:
        yield opened
    server.should_exit = True
    thread.join(20)
    listener.close()
