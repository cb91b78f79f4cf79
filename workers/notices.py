"""Listens to what PostgreSQL announces; what is announced while nobody listens is found by asking in turn."""

import threading
from collections.abc import Callable

import psycopg
import structlog
from sqlalchemy import make_url

from core.settings import settings

_AGAIN_SECONDS = 1.0
_LOOK_UP_SECONDS = 0.5
_log = structlog.get_logger(__name__)


def listen(channel: str, hear: Callable[[str], None], stopped: threading.Event) -> None:
    """Tell `hear` the payload of every notice until stopped, whatever becomes of the connection."""
    while not stopped.is_set():
        try:
            _listen(channel, hear, stopped)
        except psycopg.Error as error:
            _log.warning("listening_failed", channel=channel, error=str(error))
            stopped.wait(_AGAIN_SECONDS)


def _listen(channel: str, hear: Callable[[str], None], stopped: threading.Event) -> None:
    url = make_url(settings().database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
        # Whatever was announced before is found now.
        hear("")
        while not stopped.is_set():
            for notice in connection.notifies(timeout=_LOOK_UP_SECONDS):
                hear(notice.payload)
