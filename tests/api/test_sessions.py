"""The page's session on the same routes: reads as they are, writes only from our own pages."""

import pytest
from fastapi.testclient import TestClient

from api.deps import SESSION_COOKIE
from core.database.session import transaction
from core.services import keys, sign_in
from tests.api.conftest import User

BODY = {"url": "https://93.184.215.14/hook"}
OWN = "http://127.0.0.1"


@pytest.fixture
def csrf(client: TestClient, alice: User) -> str:
    """The token of a session whose cookie the client then carries."""
    with transaction() as session:
        cookie, csrf = sign_in.open_session(session, link=sign_in.create_link(session, alice.tenant))
    client.cookies.set(SESSION_COOKIE, cookie)
    return csrf


def code(client: TestClient, headers: dict[str, str]) -> int:
    return client.post("/v1/webhooks", json=BODY, headers=headers).status_code


def test_reads_need_the_cookie_only(client: TestClient, csrf: str) -> None:
    assert client.get("/v1/webhooks").status_code == 200


def test_writes_from_our_own_page(client: TestClient, csrf: str) -> None:
    assert code(client, {"Origin": OWN, "X-CSRF-Token": csrf}) == 201
    assert code(client, {"Sec-Fetch-Site": "same-origin", "X-CSRF-Token": csrf}) == 201


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example", ""]
)
def test_writes_from_elsewhere(client: TestClient, csrf: str, origin: str) -> None:
    answer = client.post("/v1/webhooks", json=BODY, headers={"Origin": origin, "X-CSRF-Token": csrf})
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")


def test_writes_without_the_token(client: TestClient, csrf: str) -> None:
    assert code(client, {"Origin": OWN}) == 403
    assert code(client, {"Origin": OWN, "X-CSRF-Token": csrf + "x"}) == 403
    # Browsers do not say where a request comes from only when they are very old.
    assert code(client, {"X-CSRF-Token": csrf}) == 403
    assert code(client, {"Sec-Fetch-Site": "cross-site", "X-CSRF-Token": csrf}) == 403


def test_a_form_field_is_no_token_for_the_api(client: TestClient, csrf: str) -> None:
    answer = client.post("/v1/webhooks", data={"csrf_token": csrf}, headers={"Origin": OWN})
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")


def test_a_key_needs_no_token(client: TestClient, csrf: str, alice: User) -> None:
    assert code(client, {**alice.headers, "Origin": "https://evil.example"}) == 201


def test_a_session_ends_with_its_key(client: TestClient, alice: User) -> None:
    token = alice.headers["Authorization"].removeprefix("Bearer ")
    with transaction() as session:
        client.cookies.set(SESSION_COOKIE, sign_in.open_session(session, key=token)[0])
    assert client.get("/v1/models").status_code == 200
    with transaction() as session:
        keys.revoke(session, alice.tenant, "key_" + token.split("_")[1])
    assert client.get("/v1/models").status_code == 401


def test_a_made_up_cookie(client: TestClient, database: str) -> None:
    client.cookies.set(SESSION_COOKIE, "made-up")
    assert client.get("/v1/models").status_code == 401
