"""Hostile requests get a problem, never a fault of ours."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import User
from tests.api.test_isolation import OPERATIONS, ROWS, fill
from tests.api.world import build_world

NASTY: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, "", " ", "\x00", "\ud800", "\udfff\ud800", "'; --", "../..",
    "%00", "é" * 300, "x" * 5000, "<script>", [], {}, [[[[]]]], {"": ""}, {"a": {"b": 1}}, "NaN", "2026-13-45", "mdl_",
)  # fmt: skip
QUERIES = ("limit", "after", "state", "model", "subject", "name", "split", "dry_run", "filename", "x")
ROUNDS = 400


def places(value: object, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield way
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*way, key))


def replace(value: Any, way: tuple[str | int, ...], new: object) -> Any:
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = replace(copy[way[0]], way[1:], new)
    return copy


BODIES: dict[str, Any] = {
    **{name: row.json for name, row in ROWS.items() if row.json is not None},
    "create_job": {
        "model": "{model}",
        "dataset": "{dataset}",
        "name": "n",
        "metadata": {"k": "v"},
        "seed": 1,
        "webhook_url": "https://93.184.215.14/",
        "recipe": {
            "version": 1,
            "steps": [
                {
                    "method": "quantize.linear",
                    "weights": {"bits": 8},
                    "calibration": {"method": "mse", "samples": 8},
                    "keep_float": ["fc"],
                }
            ],
        },
        "target": {"threads": 1, "batch_sizes": [1]},
        "constraints": {"max_drop": 0.1, "max_bytes": 1, "max_latency_ms": 1},
        "limits": {"minutes": 1, "memory_bytes": 10**9},
    },
    "create_dataset": {
        "uploads": ["{upload}"],
        "task": "classification",
        "name": "n",
        "metadata": {"k": "v"},
        "inputs": {"x": {"layout": "NHWC", "scale": 0.1, "mean": [0.5], "std": [0.5]}},
        "splits": {"x": "x", "y": "y", "fractions": {"train": 0.5, "evaluation": 0.5}, "seed": 0},
    },
    "create_key": {"name": "n", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00Z"},
    "create_webhook": {"url": "https://93.184.215.14/", "events": ["job.*"], "name": "n", "metadata": {"k": "v"}},
    "update_job": {"name": "n", "metadata": {"k": "v"}},
}


def test_no_request_is_a_fault_of_ours(client: TestClient, alice: User) -> None:
    ids = build_world(alice.tenant).ids
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    # A stream does not end, and what is deleted is no target any more.
    names = [name for name in ROWS if name not in ("follow_job", "revoke_key") and not name.startswith("delete_")]
    for number in range(ROUNDS):
        operation = dice.choice([*names, *BODIES])
        method, path, _ = OPERATIONS[operation]
        body = fill(BODIES.get(operation), ids)
        if body is not None:
            body = replace(body, dice.choice(list(places(body))), dice.choice(NASTY))
        query = {dice.choice(QUERIES): str(dice.choice(NASTY))[:1000] for _ in range(dice.randrange(3))}
        known = {name: dice.choice([value, value, "%00", "..", "x" * 300, "%ED%A0%80"]) for name, value in ids.items()}
        answer = client.request(
            method,
            path.format(**known),
            params={name: value.encode("utf-8", "replace") for name, value in query.items()},
            content=json.dumps(body) if body is not None else None,
            headers={**alice.headers, "Content-Type": "application/json"},
        )
        assert answer.status_code < 500, f"seed {seed}, round {number}: {method} {answer.url} {body!r:.300}"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"{", b"nul", b'{"a":1}{"b":2}', b"1e999", b"NaN", b'{"a": "\\ud800"}']
)
def test_bodies_that_are_no_json(client: TestClient, alice: User, content: bytes) -> None:
    answer = client.post("/v1/jobs", content=content, headers={**alice.headers, "Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs?dry_run=true"])
def test_half_a_character(client: TestClient, alice: User, path: str) -> None:
    """Such text comes through pydantic; it must not come as far as the database or the answer."""
    ids = build_world(alice.tenant).ids
    step = {"method": "quantize.linear", "keep_float": ["\ud800"]}
    bodies = {"/v1/models": {"uploads": ["\ud800"]}}
    body = bodies.get(path, {"model": ids["model"], "dataset": ids["dataset"], "recipe": {"steps": [step]}})
    headers = {**alice.headers, "Content-Type": "application/json"}
    answer = client.post(path, content=json.dumps(body), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
