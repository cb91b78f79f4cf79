"""A write is committed before its answer leaves."""

import psycopg
import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import User
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
