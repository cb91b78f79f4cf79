"""Every operation × no key, too little scope, another tenant's key. A new route without a row here fails."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from api.app import create_app
from core.database.session import transaction
from core.resources.system import SCOPES, Scope
from core.services import keys
from tests.api.conftest import User, bearer
from tests.api.test_openapi import operations
from tests.api.world import World, build_world

OPERATIONS = operations(create_app().openapi())


@dataclass(frozen=True)
class Row:
    """What an operation needs, how it is called, and what another tenant gets for our objects."""

    scope: Scope | None
    # missing: 404 as if there were none; hidden: a list without them; own: it names no object.
    foreign: Literal["missing", "hidden", "own"]
    json: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)


RECIPE = {"steps": [{"method": "quantize.linear"}]}
ROWS = {
    "create_upload": Row("models:write", "own", query={"filename": "net.onnx"}),
    "get_upload": Row("read", "missing"),
    "create_model": Row("models:write", "missing", {"uploads": ["{upload}"]}),
    "list_models": Row("read", "hidden"),
    "get_model": Row("read", "missing"),
    "list_model_layers": Row("read", "missing"),
    "get_model_content": Row("read", "missing"),
    "update_model": Row("models:write", "missing", {"name": "taken over"}),
    "delete_model": Row("models:write", "missing"),
    "create_dataset": Row(
        "models:write", "missing", {"uploads": ["{upload}"], "task": "none", "splits": {"train": {"x": "x"}}}
    ),
    "list_datasets": Row("read", "hidden"),
    "get_dataset": Row("read", "missing"),
    "update_dataset": Row("models:write", "missing", {"name": "taken over"}),
    "delete_dataset": Row("models:write", "missing"),
    "create_job": Row("jobs:write", "missing", {"model": "{model}", "dataset": "{dataset}", "recipe": RECIPE}),
    "list_jobs": Row("read", "hidden"),
    "get_job": Row("read", "missing"),
    "update_job": Row("jobs:write", "missing", {"name": "taken over"}),
    "cancel_job": Row("jobs:write", "missing"),
    "retry_job": Row("jobs:write", "missing"),
    "list_job_metrics": Row("read", "missing"),
    "list_job_artifacts": Row("read", "missing"),
    "follow_job": Row("read", "missing"),
    "get_artifact": Row("read", "missing"),
    "get_artifact_content": Row("read", "missing"),
    "list_methods": Row("read", "own"),
    "create_webhook": Row("webhooks", "own", {"url": "https://93.184.215.14/hook"}),
    "list_webhooks": Row("webhooks", "hidden"),
    "get_webhook": Row("webhooks", "missing"),
    "update_webhook": Row("webhooks", "missing", {"name": "taken over"}),
    "delete_webhook": Row("webhooks", "missing"),
    "rotate_webhook": Row("webhooks", "missing"),
    "send_test_event": Row("webhooks", "missing"),
    "list_deliveries": Row("webhooks", "missing"),
    "redeliver": Row("webhooks", "missing"),
    "list_events": Row("read", "hidden"),
    "create_key": Row("admin", "own", {"name": "another"}),
    "list_keys": Row("admin", "hidden"),
    "revoke_key": Row("admin", "missing"),
    "get_system": Row("read", "own"),
    "check_health": Row(None, "own"),
    "check_readiness": Row(None, "own"),
    "get_prometheus_metrics": Row(None, "own"),
}


@pytest.fixture
def world(alice: User) -> World:
    return build_world(alice.tenant)


def call(client: TestClient, operation: str, ids: dict[str, str], headers: dict[str, str]) -> Response:
    method, path, _ = OPERATIONS[operation]
    row = ROWS[operation]
    body = fill(row.json, ids) if row.json is not None else None
    content = b"bytes" if operation == "create_upload" else None
    return client.request(method, path.format(**ids), params=row.query, json=body, content=content, headers=headers)


def fill(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: fill(inner, ids) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, ids) for inner in value]
    return value.format(**ids) if isinstance(value, str) else value


def code(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_every_operation_has_a_row() -> None:
    assert set(ROWS) == set(OPERATIONS)


PROTECTED = [name for name, row in ROWS.items() if row.scope is not None]


def test_without_a_valid_key(client: TestClient, alice: User, world: World) -> None:
    revoked = bearer(alice.tenant, *SCOPES)
    with transaction() as session:
        keys.revoke(session, alice.tenant, "key_" + revoked["Authorization"].split("_")[1])
    other_secret = alice.headers["Authorization"][:-1] + "!"
    wrong = ({}, revoked, *({"Authorization": text} for text in ("Bearer mp_", "Basic eDp4", other_secret)))
    for operation in PROTECTED:
        for headers in wrong:
            assert code(call(client, operation, world.ids, headers)) == (401, "unauthenticated"), (operation, headers)


def test_without_the_scope(client: TestClient, alice: User, world: World) -> None:
    lacking = {needed: bearer(alice.tenant, *(scope for scope in SCOPES if scope != needed)) for needed in SCOPES}
    for operation in PROTECTED:
        answer = call(client, operation, world.ids, lacking[ROWS[operation].scope])
        assert code(answer) == (403, "forbidden"), operation


def test_as_another_tenant(client: TestClient, bob: User, world: World) -> None:
    nowhere = {name: identifier[:-4] + "zzzz" for name, identifier in world.ids.items()}
    for operation in PROTECTED:
        foreign = call(client, operation, world.ids, bob.headers)
        if ROWS[operation].foreign == "missing":
            assert code(foreign) == (404, "not_found"), operation
            missing = call(client, operation, nowhere, bob.headers)
            assert scrubbed(missing, nowhere) == scrubbed(foreign, world.ids), operation
        else:
            assert foreign.status_code < 300, operation
            assert not any(identifier in foreign.text for identifier in world.ids.values()), operation


def test_as_the_owner(client: TestClient, alice: User, world: World) -> None:
    """The same calls succeed: so it was the tenant, the scope or the key that made the difference above."""
    for operation in sorted(PROTECTED, key=lambda name: OPERATIONS[name][0] == "delete"):
        own = call(client, operation, world.ids, alice.headers)
        # A job that was queued by an earlier call keeps its model and data set from being deleted.
        assert own.status_code < 300 or code(own) == (409, "conflict"), (operation, own.text)
        if ROWS[operation].foreign == "hidden":
            assert any(identifier in own.text for identifier in world.ids.values()), operation


def test_open_to_all(client: TestClient, world: World) -> None:
    for operation in set(ROWS) - set(PROTECTED):
        answer = call(client, operation, world.ids, {})
        assert answer.status_code == 200, operation
        assert not any(identifier in answer.text for identifier in world.ids.values()), operation


def test_anothers_delivery_through_ones_own_endpoint(client: TestClient, bob: User, world: World) -> None:
    own = call(client, "create_webhook", world.ids, bob.headers).json()["id"]
    assert code(call(client, "redeliver", {**world.ids, "webhook": own}, bob.headers)) == (404, "not_found")


def scrubbed(answer: Response, ids: dict[str, str]) -> tuple[dict[str, Any], set[str]]:
    body = {key: value for key, value in answer.json().items() if key != "request_id"}
    for name, identifier in ids.items():
        body["detail"] = body["detail"].replace(identifier, name)
    return body, set(answer.headers)
