"""The OpenAPI 3.1 document: `python -m api.openapi docs/openapi.json` writes it, a test compares it."""

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import PROBLEM_TYPE
from core.resources.shape import Problem

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_REFUSALS = {
    "401": "`unauthenticated`: no key or session, or not a valid one.",
    "403": "`forbidden` or `csrf_failed`.",
    "404": "`not_found`: missing, or of another tenant.",
    "409": "`conflict`, `idempotency_in_flight` and the like.",
    "413": "`too_large`.",
    "416": "`range_not_satisfiable`.",
    "422": "`invalid_request` and the like.",
    "503": "`unavailable`; see `Retry-After`.",
}


def install_openapi(app: FastAPI) -> None:
    """Serve our document instead of the framework's."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    # FastAPI documents replacing this method as the way to change the document.
    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    """The document of the application, with problems in place of the framework's own errors."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=app.openapi_tags
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status in refusals(path, method, operation):
                operation["responses"][status] = problem(_REFUSALS[status])
            if "security" in operation and method != "get":
                operation.setdefault("parameters", []).append(_CSRF)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document


_CSRF = {
    "name": "X-CSRF-Token",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Needed with a session cookie only.",
}


def refusals(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    """The statuses with which an operation may refuse."""
    statuses = ["503"] if path != "/healthz" else []
    if "security" in operation:
        statuses += ["401", "403"]
    if "{" in path or (method == "post" and "requestBody" in operation):
        statuses += ["404"]
    if method == "post":
        statuses += ["409"]
    if "requestBody" in operation:
        statuses += ["413"]
    if path.endswith("/content"):
        statuses += ["416"]
    if "422" in operation["responses"] or "requestBody" in operation:
        statuses += ["422"]
    return sorted(statuses)


def problem(description: str) -> dict[str, Any]:
    """A response of the one shape that errors have."""
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": _PROBLEM}}}


def text(document: dict[str, Any]) -> str:
    """The document as the file that is committed."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    from api.app import create_app

    Path(sys.argv[1]).write_text(text(create_app().openapi()))
