"""Connections and transactions; the only place that commits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from core.settings import settings

# A lock or a statement that waits longer than this is a fault that must be seen, not a queue to stand in.
_OPTIONS = (
    "-c statement_timeout=15000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=30000 -c timezone=UTC"
)


def make_engine(url: str, **options: Any) -> Engine:
    """An engine for the PostgreSQL at `url` whose statements, locks and idle transactions time out."""
    return create_engine(url, pool_pre_ping=True, connect_args={"options": _OPTIONS, "connect_timeout": 5}, **options)


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The engine of this process."""
    return make_engine(settings().database_url, pool_size=10, max_overflow=10)


@contextmanager
def transaction() -> Iterator[Session]:
    """A session that commits when the block ends and rolls back when it raises."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read_only() -> Iterator[Session]:
    """A session that cannot write."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        session.execute(text("SET TRANSACTION READ ONLY"))
        yield session
