"""Following a job live."""

import json
import threading
import time
from collections.abc import Callable, Iterator

import httpx2
import psycopg
import pytest
from fastapi.testclient import TestClient

from core.database.session import transaction
from core.database.tables import JobRow
from core.services import endings, jobs, stream
from core.states import JobState
from tests.api.conftest import User
from tests.api.world import build_world

Event = dict[str, str]


@pytest.fixture
def job(alice: User) -> str:
    """A job that waits."""
    finished = build_world(alice.tenant).ids["job"]
    with transaction() as session:
        return jobs.retry(session, alice.tenant, finished).id


def parse(lines: Iterator[str]) -> Iterator[Event]:
    event: Event = {}
    for line in lines:
        if line == "" and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def log(job: str, *lines: str) -> None:
    with transaction() as session:
        row = session.get_one(JobRow, job, with_for_update=True)
        stream.append(session, row, "log", [{"text": line} for line in lines])


def finish(job: str) -> None:
    with transaction() as session:
        endings.end_job(session, session.get_one(JobRow, job, with_for_update=True), JobState.CANCELLED)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_events_arrive_while_they_happen_and_the_stream_ends_with_the_job(
    live: httpx2.Client, alice: User, job: str
) -> None:
    with live.stream("GET", f"/v1/jobs/{job}/events", headers=alice.headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        events = parse(answer.iter_lines())
        assert next(events) == {"retry": "1000"}
        assert next(events)["event"] == "job.state"
        # Nothing more is there yet: what comes now is woken by a notification.
        log(job, "one", "two\nlines")
        first, second = next(events), next(events)
        assert [json.loads(event["data"])["payload"]["text"] for event in (first, second)] == ["one", "two\nlines"]
        assert int(second["id"]) == int(first["id"]) + 1
        threading.Timer(0.2, finish, (job,)).start()
        rest = list(events)
    assert [event["event"] for event in rest] == ["job.state"]
    assert json.loads(rest[0]["data"])["payload"]["state"] == "cancelled"


def test_resume_after_the_last_event_seen(client: TestClient, alice: User, job: str) -> None:
    log(job, *(f"line {number}" for number in range(1200)))
    finish(job)
    whole = list(parse(client.get(f"/v1/jobs/{job}/events", headers=alice.headers).iter_lines()))
    numbers = [int(event["id"]) for event in whole if "id" in event]
    assert numbers == list(range(1, 1203))
    resumed = client.get(f"/v1/jobs/{job}/events", headers={**alice.headers, "Last-Event-ID": "1200"})
    assert [int(event["id"]) for event in parse(resumed.iter_lines()) if "id" in event] == [1201, 1202]


def test_nothing_more_will_come(client: TestClient, alice: User, job: str) -> None:
    finish(job)
    answer = client.get(f"/v1/jobs/{job}/events", headers={**alice.headers, "Last-Event-ID": "2"})
    assert answer.status_code == 204


@pytest.mark.parametrize("last", ["-1", "x", str(2**63)])
def test_impossible_last_event(client: TestClient, alice: User, job: str, last: str) -> None:
    answer = client.get(f"/v1/jobs/{job}/events", headers={**alice.headers, "Last-Event-ID": last})
    assert (answer.status_code, answer.json()["pointer"]) == (422, "/header/last-event-id")


def test_listening_survives_the_loss_of_its_connection(
    live: httpx2.Client, alice: User, job: str, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as admin:

        def listeners() -> list[int]:
            found = admin.execute(
                "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            )
            return [row[0] for row in found.fetchall()]

        wait_until(lambda: len(listeners()) == 1)
        with live.stream("GET", f"/v1/jobs/{job}/events", headers=alice.headers) as answer:
            events = parse(answer.iter_lines())
            assert next(events) == {"retry": "1000"}
            assert next(events)["event"] == "job.state"
            [old] = listeners()
            admin.execute("SELECT pg_terminate_backend(%s)", (old,))
            log(job, "told while nobody listened")
            assert json.loads(next(events)["data"])["payload"]["text"] == "told while nobody listened"
            wait_until(lambda: listeners() not in ([], [old]))
