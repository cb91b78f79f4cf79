"""Where the lines of the logs go."""

import io
import json

import pytest
import structlog

from core.logs import configure_logs


def test_lines_go_to_the_stream_that_is_there_when_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    before = structlog.get_config()
    first, second = io.StringIO(), io.StringIO()
    log = structlog.get_logger()
    try:
        monkeypatch.setattr("sys.stderr", first)
        configure_logs("api")
        log.info("one")
        monkeypatch.setattr("sys.stderr", second)
        first_lines = first.getvalue()
        first.close()
        log.info("two")
    finally:
        structlog.configure(**before)
    assert json.loads(first_lines)["event"] == "one"
    assert json.loads(second.getvalue())["event"] == "two"
