import json
import subprocess
import sys

import pytest

PROGRAM = """
import json
from core import queue

for task, subject in (("run_job", "a"), ("run_job", "b"), ("inspect", "c"), ("deliver_webhook", "d")):
    queue.publish(task, subject)
counts = queue.count_messages()
with queue.app.connection_for_read() as connection:
    message = connection.SimpleQueue("compute").get(timeout=5)
    message.ack()
print(json.dumps([counts, message.headers["task"], message.payload[0], message.content_type]))
"""

EMPTY = "from core import queue; print(queue.count_messages())"

AWAY = """
from core import queue

for act in (lambda: queue.publish("run_job", "a"), queue.count_messages):
    try:
        act()
    except queue.BrokerUnavailable:
        print("away")
"""


def run(program: str) -> str:
    """In a process of its own, since the app reads its settings once."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("database", "broker")
def test_messages_reach_their_queues_and_are_counted() -> None:
    counts, task, arguments, content_type = json.loads(run(PROGRAM))
    assert counts == {"compute": 2, "inspect": 1, "deliver": 1}
    assert (task, arguments, content_type) == ("run_job", ["a"], "application/json")


@pytest.mark.usefixtures("database", "broker")
def test_queues_that_nothing_was_sent_to_are_empty() -> None:
    assert run(EMPTY).strip() == str({"compute": 0, "inspect": 0, "deliver": 0})


@pytest.mark.usefixtures("database")
def test_a_broker_that_is_away_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    assert run(AWAY).split() == ["away", "away"]
