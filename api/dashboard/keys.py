"""API keys: the list, a new one with its only sight of the secret, revoking."""

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from api.dashboard import forms
from api.dashboard.rendering import Done, PageRoute, Seen, View, see
from core.errors import ModelpressError
from core.resources.system import SCOPES, KeyCreate, KeyWithSecret
from core.services import keys

router = APIRouter(route_class=PageRoute)

PAGE_SIZE = 50
MEANINGS = {
    "read": "see everything",
    "models:write": "upload models and data",
    "jobs:write": "start and cancel jobs",
    "webhooks": "endpoints and their secrets",
    "admin": "make and revoke keys",
}


@router.get("/keys")
def show_keys(view: Seen, after: str | None = None) -> Response:
    """The keys and the form that makes one."""
    view.need("admin")
    return list_page(view, after=after)


@router.post("/keys")
def make_key(view: Done, name: Annotated[str, Form()] = "", scope: Annotated[tuple[str, ...], Form()] = ()) -> Response:
    """Make a key; its secret is on the page that answers, and only there."""
    view.need("admin")
    body = {"name": name.strip(), "scopes": scope}
    try:
        return list_page(view, made=keys.create(view.session, view.tenant, KeyCreate.model_validate(body)))
    except ValidationError as error:
        return list_page(view, error=forms.refusal(error, body))


@router.post("/keys/{key_id}/revoke")
def revoke_key(key_id: str, view: Done) -> RedirectResponse:
    """End a key and every session that was opened with it."""
    view.need("admin")
    keys.revoke(view.session, view.tenant, key_id)
    return see("/keys")


def list_page(
    view: View, *, after: str | None = None, made: KeyWithSecret | None = None, error: ModelpressError | None = None
) -> Response:
    """The keys, with a new secret or with what went wrong."""
    values = {
        "keys": keys.list_(view.session, view.tenant, limit=PAGE_SIZE, after=after),
        "after": after or "",
        "made": made,
        "error": error,
        "scopes": [(scope, MEANINGS[scope]) for scope in SCOPES],
        "given": KeyCreate.model_fields["scopes"].default,
    }
    return view.page("keys.html", values, status=422 if error else 200)
