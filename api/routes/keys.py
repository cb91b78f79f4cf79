"""`/v1/keys`."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.deps import Admin, Reading, Writing
from api.idempotency import Idempotent
from api.queries import Paging
from core.resources.shape import Page
from core.resources.system import Key, KeyCreate, KeyWithSecret
from core.services import keys

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201, response_model=KeyWithSecret)
def create_key(body: KeyCreate, principal: Admin, once: Idempotent) -> Response:
    """Make a key; its token is shown in this answer only."""
    return once.answer(lambda: keys.create(once.session, principal.tenant, body), status=201)


@router.get("")
def list_keys(query: Annotated[Paging, Query()], principal: Admin, session: Reading) -> Page[Key]:
    """The keys, newest first, without their secrets."""
    return keys.list_(session, principal.tenant, limit=query.limit, after=query.after)


@router.delete("/{key}", status_code=204)
def revoke_key(key: str, principal: Admin, session: Writing) -> None:
    """Revoke a key at once."""
    keys.revoke(session, principal.tenant, key)
