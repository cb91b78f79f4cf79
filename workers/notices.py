"""Listens to what PostgreSQL announces; what is announced while nobody listens is found by asking in turn."""

import time
from collections.abc import Callable

import psycopg
import structlog
from sqlalchemy import make_url

from core.settings import settings

_AGAIN_SECONDS = 1.0
_log = structlog.get_logger(__name__)


def listen(channel: str, hear: Callable[[str], None]) -> None:
    """Tell `hear` the payload of every notice; runs for ever, on a thread of its own."""
    while True:
        try:
            _listen(channel, hear)
        except psycopg.Error as error:
            _log.warning("listening_failed", channel=channel, error=str(error))
        time.sleep(_AGAIN_SECONDS)


def _listen(channel: str, hear: Callable[[str], None]) -> None:
    url = make_url(settings().database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
        for notice in connection.notifies():
            hear(notice.payload)
