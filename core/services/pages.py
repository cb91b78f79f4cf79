"""Lists, newest first, a page at a time."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from core.database.tables import Identified
from core.errors import ModelpressError
from core.resources.shape import Page

R = TypeVar("R", bound=Identified)
Item = TypeVar("Item")

MAX_LIMIT = 200


def page(
    session: Session,
    statement: Select[R],
    row_class: type[R],
    *,
    limit: int,
    after: str | None,
    show: Callable[[Sequence[R]], Sequence[Item]],
) -> Page[Item]:
    """The rows of `statement` that are older than the one of id `after`, at most `limit`."""
    if not 1 <= limit <= MAX_LIMIT:
        raise ModelpressError("invalid_request", f"limit must be from 1 to {MAX_LIMIT}.", pointer="/limit")
    if after is not None:
        if "\x00" in after:
            raise ModelpressError("invalid_request", "after must be an id.", pointer="/after")
        statement = statement.where(row_class.id < after)
    rows = session.scalars(statement.order_by(row_class.id.desc()).limit(limit + 1)).all()
    has_more, rows = len(rows) > limit, rows[:limit]
    return Page(data=tuple(show(rows)), has_more=has_more, next=rows[-1].id if has_more else None)
