"""A write is committed before its answer leaves."""

import psycopg
import pytest
from fastapi.testclient import TestClient

from api.deps import SESSION_COOKIE
from core.database import session
from core.services import sign_in
from tests.api.conftest import User
from tests.api.test_isolation import PROTECTED, call
from tests.api.world import build_world

FAIL_AT_COMMIT = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'unique_violation'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON {table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.mark.parametrize(
    ("operation", "table", "body"),
    [
        ("PATCH /v1/models/{model}", "models", {"name": "new"}),
        ("POST /v1/webhooks", "webhooks", {"url": "https://93.184.215.14/hook"}),
        ("POST /v1/uploads?filename=a", "uploads", {}),
    ],
)
def test_a_commit_that_fails_is_no_success(
    client: TestClient, alice: User, database: str, operation: str, table: str, body: dict[str, str]
) -> None:
    world = build_world(alice.tenant)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(FAIL_AT_COMMIT.format(table=table))
    method, path = operation.split()
    answer = client.request(method, path.format(**world.ids), json=body, headers=alice.headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"


def test_a_request_holds_one_connection_at_a_time(
    client: TestClient, alice: User, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two, as many requests as the pool is large would wait for each other."""
    world = build_world(alice.tenant)
    engine = session.make_engine(database, pool_size=1, max_overflow=0, pool_timeout=2)
    monkeypatch.setattr(session, "engine", lambda: engine)
    for operation in PROTECTED:
        assert call(client, operation, world.ids, alice.headers).status_code < 500, operation
    for page in ("/jobs", f"/jobs/{world.ids['job']}", "/models", "/webhooks", "/keys"):
        client.cookies.set(SESSION_COOKIE, cookie_of(alice))
        assert client.get(page).status_code < 400, page
    engine.dispose()


def cookie_of(user: User) -> str:
    with session.transaction() as opened:
        return sign_in.open_session(opened, key=user.headers["Authorization"].removeprefix("Bearer "))[0]
