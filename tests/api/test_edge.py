"""What every answer has, whatever the route."""

import json
import logging

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.edge import MAX_BODY_BYTES, PAGE_POLICY
from tests.api.conftest import User


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/nothing", "/v1/openapi.json"])
def test_request_id_and_security_headers_on_every_answer(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["content-security-policy"] == PAGE_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "evil.example:80", "", "localhost:x"]
)
def test_foreign_host_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/healthz", headers={"Host": host})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert "MODELPRESS_ALLOWED_HOSTS" in answer.json()["hint"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "LOCALHOST:1"])
def test_own_host_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_problems_have_one_shape(client: TestClient, alice: User) -> None:
    for answer, status, code in [
        (client.get("/v1/nothing", headers=alice.headers), 404, "not_found"),
        (client.put("/v1/models", headers=alice.headers), 405, "method_not_allowed"),
        (client.get("/v1/models"), 401, "unauthenticated"),
        (client.get("/v1/models/mdl_x", headers=alice.headers), 404, "not_found"),
        (client.get("/v1/models?limit=0", headers=alice.headers), 422, "invalid_request"),
        (client.get("/v1/models?stat=ready", headers=alice.headers), 422, "invalid_request"),
        (client.post("/v1/jobs?dryrun=true", json={}, headers=alice.headers), 422, "invalid_request"),
        (client.post("/v1/models", content=b"{", headers=alice.headers), 422, "invalid_request"),
    ]:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["code"] == code
        assert problem["status"] == status
        assert problem["request_id"] == answer.headers["request-id"]
        assert {"type", "title", "detail", "hint"} <= set(problem)
    assert client.get("/v1/models").headers["www-authenticate"] == "Bearer"


def test_large_bodies_are_cut(client: TestClient, alice: User) -> None:
    body = b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}'
    answer = client.post("/v1/models", content=body, headers={**alice.headers, "Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800"])
def test_text_that_cannot_be_stored_is_no_fault_of_ours(client: TestClient, alice: User, text: str) -> None:
    body = {"url": "https://example.org/", "events": ["*"], "name": text, "metadata": {"k": text}}
    headers = {**alice.headers, "Content-Type": "application/json"}
    assert client.post("/v1/webhooks", content=json.dumps(body), headers=headers).status_code == 422
    assert client.get("/v1/models/a%00b", headers=alice.headers).status_code == 404
    assert client.get("/v1/models?after=%00", headers=alice.headers).status_code == 422


def test_metrics_carry_no_ids(client: TestClient, alice: User) -> None:
    client.get("/v1/models/mdl_secret", headers=alice.headers)
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert 'route="/v1/models/{model}"' in answer.text
    assert "mdl_secret" not in answer.text
    assert alice.tenant not in answer.text


def test_ready_when_the_database_answers(client: TestClient) -> None:
    assert client.get("/readyz").text == "ok\n"


def test_a_database_that_is_gone_is_said_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.database import session
    from core.settings import settings

    session.engine().dispose()
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/none")
    settings.cache_clear()
    session.engine.cache_clear()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["code"] == "unavailable"


def test_queries_are_not_logged(capsys: pytest.CaptureFixture[str], database: str) -> None:
    """A one-time link carries its token in the query."""
    with TestClient(create_app(), base_url="http://127.0.0.1") as client:
        client.get("/sign-in?token=canary")
    written = "".join(capsys.readouterr())
    assert '"route": "/sign-in"' in written
    assert "canary" not in written
    assert logging.getLogger("uvicorn.access").disabled
