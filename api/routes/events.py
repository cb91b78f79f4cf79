"""`/v1/events`: what happened, as webhooks would have told it."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import Reader, Reading
from api.queries import EventPaging
from core.resources.shape import Page
from core.resources.webhook import Event
from core.services import events

router = APIRouter(prefix="/v1/events", tags=["events"])


@router.get("")
def list_events(query: Annotated[EventPaging, Query()], principal: Reader, session: Reading) -> Page[Event]:
    """The events, newest first."""
    return events.list_(session, principal.tenant, limit=query.limit, after=query.after, subject=query.subject)
