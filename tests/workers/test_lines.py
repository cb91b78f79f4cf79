import json

import pytest

from core.messages import LINE_LIMIT, LogMessage
from workers.lines import Lines, Violation


def test_messages_come_whole_however_the_bytes_are_cut() -> None:
    text = b"".join(json.dumps({"kind": "log", "text": f"line {count} \u00e9"}).encode() + b"\n" for count in range(9))
    for size in (1, 2, 7, 50, 1000):
        lines = Lines()
        heard = [message for at in range(0, len(text), size) for message in lines.feed(text[at : at + size])]
        lines.close()
        assert heard == [LogMessage(text=f"line {count} \u00e9") for count in range(9)]


def test_what_postgresql_cannot_store_is_replaced() -> None:
    (message,) = Lines().feed(b'{"kind": "log", "text": "a\\u0000b"}\n')
    assert message == LogMessage(text="a\ufffdb")


@pytest.mark.parametrize(
    "data",
    [
        b"x" * (LINE_LIMIT + 1),
        b'{"kind": "log", "text": "' + b"x" * LINE_LIMIT + b'"}\n',
        b"\xff\xfe\n",
        b"not json\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b'{"kind": "progress", "method": "toy", "fraction": -1}\n',
        b'{"kind": "progress", "method": "toy", "fraction": 0.1, "more": 1}\n',
        b'{"kind": "metric", "name": "loss", "value": NaN}\n',
        b'{"kind": "metric", "name": "loss", "value": 1e999}\n',
        b'{"kind": "metric", "name": "loss", "value": 1, "conditions": {"deep": [1e999]}}\n',
        b'{"kind": "log", "text": "\\ud800"}\n',
        b'{"kind": "unheard of"}\n',
        b'{"kind": "artifact", "artifact_kind": "x", "files": [{"path": "/etc/passwd", "filename": "x"}]}\n',
        b'{"kind": "artifact", "artifact_kind": "x", "files": [{"path": "../../x", "filename": "x"}]}\n',
        b'{"kind": "artifact", "artifact_kind": "x", "files": [{"path": "a/../../x", "filename": "x"}]}\n',
    ],
)
def test_what_is_no_message_is_a_violation(data: bytes) -> None:
    with pytest.raises(Violation):
        Lines().feed(data)


def test_half_a_line_at_the_end_is_a_violation() -> None:
    lines = Lines()
    assert lines.feed(b'{"kind": "log"') == []
    with pytest.raises(Violation):
        lines.close()


def test_a_run_that_says_too_much_is_a_violation() -> None:
    line = b'{"kind": "log", "text": "x"}\n'
    lines = Lines(run_limit=2 * len(line))
    lines.feed(line)
    lines.feed(line)
    with pytest.raises(Violation):
        lines.feed(line)
