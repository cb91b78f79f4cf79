"""The same POST twice is one POST."""

import threading

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from tests.api.conftest import User
from tests.api.world import build_world

BODY = {"url": "https://93.184.215.14/hook"}


def post(client: TestClient, user: User, path: str, key: str, body: object = None) -> Response:
    return client.post(path, json=body, headers={**user.headers, "Idempotency-Key": key})


def count(client: TestClient, user: User) -> int:
    return len(client.get("/v1/webhooks", headers=user.headers).json()["data"])


def test_replay_gives_the_first_answer_without_its_secret(client: TestClient, alice: User) -> None:
    first = post(client, alice, "/v1/webhooks", "k", BODY)
    again = post(client, alice, "/v1/webhooks", "k", BODY)
    assert (again.status_code, again.headers["location"]) == (201, first.headers["location"])
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    shown = first.json()
    assert shown.pop("secret").startswith("whsec_")
    assert again.json() == shown
    assert count(client, alice) == 1


def test_other_body_or_path_is_a_conflict(client: TestClient, alice: User) -> None:
    post(client, alice, "/v1/webhooks", "k", BODY)
    for path, body in [("/v1/webhooks", {**BODY, "name": "x"}), ("/v1/keys", {"name": "x"})]:
        answer = post(client, alice, path, "k", body)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")


def test_keys_are_of_one_tenant(client: TestClient, alice: User, bob: User) -> None:
    assert (
        post(client, alice, "/v1/webhooks", "k", BODY).json()["id"]
        != (post(client, bob, "/v1/webhooks", "k", BODY).json()["id"])
    )


def test_a_refused_request_does_not_use_the_key_up(client: TestClient, alice: User) -> None:
    refused = post(client, alice, "/v1/webhooks", "k", {"url": "http://127.0.0.1/"})
    assert refused.status_code == 422
    assert post(client, alice, "/v1/webhooks", "k", BODY).status_code == 201


def test_at_once(client: TestClient, alice: User) -> None:
    answers: list[Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(client, alice, "/v1/webhooks", "k", BODY)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert 201 in {answer.status_code for answer in answers}
    assert all(answer.json()["code"] == "idempotency_in_flight" for answer in answers if answer.status_code == 409)
    assert count(client, alice) == 1


def test_posts_without_a_body_and_uploads(client: TestClient, alice: User) -> None:
    world = build_world(alice.tenant)
    path = f"/v1/jobs/{world.ids['job']}/retry"
    assert post(client, alice, path, "r").json()["id"] == post(client, alice, path, "r").json()["id"]
    headers = {**alice.headers, "Idempotency-Key": "u"}
    uploads = [client.post("/v1/uploads?filename=a", content=b"a", headers=headers).json()["id"] for _ in range(2)]
    assert uploads[0] == uploads[1]
    other = client.post("/v1/uploads?filename=a", content=b"b", headers=headers)
    assert other.json()["code"] == "idempotency_conflict"


@pytest.mark.parametrize("key", ["", "x" * 256, "ü"])
def test_impossible_keys(client: TestClient, alice: User, key: str) -> None:
    headers = {**alice.headers, "Idempotency-Key": key.encode("latin-1").decode("latin-1")}
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.post("/v1/webhooks", json=BODY, headers=encoded)
    assert answer.status_code == 422
