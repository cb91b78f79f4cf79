"""The one door to rows that belong to a tenant."""

from typing import Literal, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from core.database.tables import Identified, Owned
from core.errors import ModelpressError

R = TypeVar("R", bound=Owned)
I = TypeVar("I", bound=Identified)  # noqa: E741 - one letter, as type variables are

Lock = Literal["none", "share", "update"]


def owned(row_class: type[R], tenant: str) -> Select[R]:
    """Selects the rows of `tenant`; every query on behalf of a user starts here."""
    return select(row_class).where(row_class.tenant_id == tenant)


def get_owned(session: Session, row_class: type[I], tenant: str, identifier: str, *, lock: Lock = "none") -> I:
    """The row of that id; raises `not_found` alike when there is none and when it is another tenant's."""
    statement = owned(row_class, tenant).where(row_class.id == identifier)
    if lock != "none":
        # A row that is locked is read anew: the session may hold it as it was before someone else changed it.
        statement = statement.with_for_update(read=lock == "share").execution_options(populate_existing=True)
    row = None if "\x00" in identifier else session.scalars(statement).one_or_none()
    if row is None:
        raise ModelpressError("not_found", f"There is no object {identifier[:60]!r}.")
    return row
