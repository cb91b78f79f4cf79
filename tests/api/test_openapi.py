"""The document that clients are generated from."""

from typing import Any

import pytest

from api.app import create_app
from api.openapi import text
from tests.api.test_rules import ROOT

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    return create_app().openapi()


def operations(document: Document) -> dict[str, tuple[str, str, Document]]:
    return {
        operation["operationId"]: (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_committed_document_is_that_of_the_code(document: Document) -> None:
    committed = (ROOT / "docs/openapi.json").read_text()
    assert text(document) == committed, "Run `make openapi`."


def test_it_is_openapi_3_1_with_named_and_described_operations(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    found = operations(document)
    assert len(found) == sum(len(methods) for methods in document["paths"].values())
    for name, (_, _, operation) in found.items():
        assert name.isidentifier()
        assert operation["tags"]
        assert operation["description"]


def test_errors_are_problems(document: Document) -> None:
    for name, (_, path, operation) in operations(document).items():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], f"{name} {status}"
        if path.startswith("/v1/"):
            assert {"401", "403", "503"} <= set(operation["responses"]), name
            assert {"key": []} in operation["security"], name


def test_every_post_takes_an_idempotency_key(document: Document) -> None:
    for name, (method, _, operation) in operations(document).items():
        if method == "post":
            names = {parameter["name"] for parameter in operation["parameters"]}
            assert "idempotency-key" in {one.lower() for one in names}, name


def test_references_lead_somewhere(document: Document) -> None:
    for reference in references(document):
        where: Any = document
        for part in reference.removeprefix("#/").split("/"):
            where = where[part]


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []
