import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from core.database.session import transaction
from core.database.tables import DeliveryRow, OutboxRow, WebhookRow
from core.errors import ModelpressError
from core.resources.model import Rename
from core.resources.webhook import Delivery, WebhookCreate, WebhookWithSecret
from core.services import attempts, deliveries, events, jobs, webhooks
from core.services.deliveries import Answer, DueDelivery
from core.settings import settings
from tests.core.services.makers import ask, make_dataset, make_job, make_model, make_verdict

URL = "http://127.0.0.1:9/hook"
OK = Answer(status=204, answer="", error=None, milliseconds=3.14159)
DOWN = Answer(status=None, answer="", error="refused", milliseconds=1)


@pytest.fixture(autouse=True)
def allow_loopback(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPRESS_WEBHOOK_ALLOW", '["127.0.0.0/8"]')
    settings.cache_clear()


def make_webhook(tenant: str, *patterns: str) -> WebhookWithSecret:
    with transaction() as session:
        return webhooks.create(session, tenant, WebhookCreate(url=URL, events=patterns or ("*",)))


def run_a_job(tenant: str) -> str:
    job = make_job(tenant)
    with transaction() as session:
        claim = attempts.claim(session, "one")
        assert claim is not None
        attempts.finish(session, claim.lease, make_verdict(), [])
    return job


def try_all(answer: Answer) -> list[DueDelivery]:
    with transaction() as session:
        due = deliveries.claim_due(session, 50)
    for each in due:
        with transaction() as session:
            deliveries.record(session, each, answer)
    return due


def seconds_to_next(session: Session) -> float:
    statement = text("SELECT extract(epoch FROM next_attempt_at - now()) FROM deliveries ORDER BY id DESC LIMIT 1")
    return float(session.execute(statement).scalar_one())


def make_due() -> None:
    with transaction() as session:
        session.execute(text("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'pending'"))


def the_delivery(tenant: str, webhook: str) -> Delivery:
    with transaction() as session:
        return webhooks.deliveries(session, tenant, webhook).data[0]


def test_endpoints_hear_what_they_asked_for(tenant: str) -> None:
    every, ends, models = (make_webhook(tenant, *patterns) for patterns in (("*",), ("job.succeeded",), ("model.*",)))
    job = run_a_job(tenant)
    with transaction() as session:
        heard = {
            webhook.id: [delivery.type for delivery in webhooks.deliveries(session, tenant, webhook.id).data]
            for webhook in (every, ends, models)
        }
        about = webhooks.deliveries_about(session, tenant, job)
    assert heard == {every.id: ["job.succeeded", "job.running"], ends.id: ["job.succeeded"], models.id: []}
    assert {delivery.subject for delivery in about} == {job}
    assert len(about) == 3


def test_the_body_is_thin_and_tells_where_to_look(tenant: str) -> None:
    webhook = make_webhook(tenant)
    job = run_a_job(tenant)
    delivery = the_delivery(tenant, webhook.id)
    body = json.loads(delivery.body)
    assert set(body) == {"type", "timestamp", "data"}
    assert (body["type"], body["data"]["id"], body["data"]["state"]) == ("job.succeeded", job, "succeeded")
    assert body["data"]["url"].endswith(f"/v1/jobs/{job}")
    assert body["data"]["summary"]["headline"]["size_ratio"] == 4.0
    assert datetime.fromisoformat(body["timestamp"]).utcoffset() == UTC.utcoffset(None)
    assert len(delivery.body) < 20_000


def test_a_job_may_have_a_private_endpoint(tenant: str) -> None:
    asked = ask(make_model(tenant), make_dataset(tenant), webhook_url=URL)
    with transaction() as session:
        job = jobs.create(session, tenant, asked).id
    other = run_a_job(tenant)
    with transaction() as session:
        assert {delivery.subject for delivery in webhooks.deliveries_about(session, tenant, job)} == {job}
        assert webhooks.deliveries_about(session, tenant, other) == []


def test_a_delivery_is_signed_with_a_standard_secret(tenant: str) -> None:
    webhook = make_webhook(tenant)
    run_a_job(tenant)
    due = try_all(OK)[-1]
    assert due.secrets == (webhook.secret,)
    now = datetime.now(UTC)
    signature = Webhook(due.secrets[0]).sign(due.event, now, due.body)
    headers = {"webhook-id": due.event, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    assert Webhook(webhook.secret).verify(due.body, headers)["type"] == "job.succeeded"


def test_a_received_delivery_is_done(tenant: str) -> None:
    webhook = make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    assert len(try_all(OK)) == 1
    assert try_all(OK) == []
    delivery = the_delivery(tenant, webhook.id)
    assert (delivery.state, delivery.next_attempt_at) == ("delivered", None)
    assert [(entry.status, entry.milliseconds) for entry in delivery.tries] == [(204, 3.1)]
    assert delivery.delivered_at is not None


def test_what_is_being_delivered_is_not_due(tenant: str) -> None:
    make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    with transaction() as session:
        first = deliveries.claim_due(session)
        assert deliveries.claim_due(session) == []
        session.execute(text("UPDATE deliveries SET claimed_until = now() - interval '1 s'"))
        second = deliveries.claim_due(session)
    assert first == second
    for answer in (DOWN, OK):
        # Only the first of two answers to one try counts.
        with transaction() as session:
            deliveries.record(session, first[0], answer)
    with transaction() as session:
        assert [len(row.tries) for row in session.scalars(select(DeliveryRow))] == [1]


def test_tries_follow_the_schedule_of_standard_webhooks_and_end(tenant: str) -> None:
    webhook = make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    bodies = set()
    for wait in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400):
        make_due()
        bodies |= {(each.event, each.body) for each in try_all(DOWN)}
        with transaction() as session:
            assert 0.8 * wait - 2 <= seconds_to_next(session) <= 1.2 * wait
    make_due()
    try_all(DOWN)
    delivery = the_delivery(tenant, webhook.id)
    assert (delivery.state, delivery.next_attempt_at, len(delivery.tries)) == ("failed", None, 10)
    assert len(bodies) == 1


@pytest.mark.parametrize(("asked", "at_least", "at_most"), [(3600, 3590, 3600), (1, 2, 6), (1e9, 86_300, 86_400)])
def test_retry_after_is_obeyed_within_reason(tenant: str, asked: float, at_least: float, at_most: float) -> None:
    make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    try_all(Answer(status=429, answer="", error=None, milliseconds=1, retry_after=asked))
    with transaction() as session:
        assert at_least <= seconds_to_next(session) <= at_most


@pytest.mark.parametrize("status", [199, 301, 302, 400, 404, 500, None])
def test_anything_but_2xx_is_tried_again(tenant: str, status: int | None) -> None:
    webhook = make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    try_all(Answer(status=status, answer="x" * 5000 + "\x00", error=None, milliseconds=1))
    delivery = the_delivery(tenant, webhook.id)
    assert delivery.state == "pending"
    assert len(delivery.tries[0].answer) == 1024


def test_410_disables_at_once_and_a_test_that_arrives_enables_again(tenant: str) -> None:
    webhook = make_webhook(tenant)
    run_a_job(tenant)
    with transaction() as session:
        first, *_ = deliveries.claim_due(session, 1)
    with transaction() as session:
        deliveries.record(session, first, Answer(status=410, answer="", error=None, milliseconds=1))
    with transaction() as session:
        shown = webhooks.get(session, tenant, webhook.id)
        states = {delivery.state for delivery in webhooks.deliveries(session, tenant, webhook.id).data}
    assert shown.disabled_reason is not None
    assert "410" in shown.disabled_reason
    assert states == {"failed"}
    run_a_job(tenant)
    assert try_all(OK) == []
    with transaction() as session:
        assert webhooks.test(session, tenant, webhook.id).type == "webhook.test"
    assert len(try_all(OK)) == 1
    with transaction() as session:
        assert webhooks.get(session, tenant, webhook.id).disabled_at is None


def test_five_bad_days_disable(tenant: str) -> None:
    webhook = make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    try_all(DOWN)
    with transaction() as session:
        session.execute(text("UPDATE webhooks SET failing_since = now() - interval '4 days 23 hours'"))
    make_due()
    try_all(DOWN)
    with transaction() as session:
        assert webhooks.get(session, tenant, webhook.id).disabled_at is None
        session.execute(text("UPDATE webhooks SET failing_since = now() - interval '5 days'"))
    make_due()
    try_all(DOWN)
    with transaction() as session:
        assert webhooks.get(session, tenant, webhook.id).disabled_at is not None


def test_working_endpoints_are_served_before_failing_ones(tenant: str) -> None:
    for _ in range(3):
        make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    with transaction() as session:
        session.execute(text("UPDATE webhooks SET failing_since = now() WHERE id <> (SELECT max(id) FROM webhooks)"))
        working = session.scalars(select(WebhookRow.id).where(WebhookRow.failing_since.is_(None))).one()
    with transaction() as session:
        assert [due.webhook for due in deliveries.claim_due(session, 1)] == [working]


def test_redelivery_sends_the_same_bytes_under_the_same_id(tenant: str) -> None:
    webhook = make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    first = try_all(OK)[0]
    with transaction() as session:
        again = webhooks.redeliver(session, tenant, webhook.id, first.id)
    assert again.state == "pending"
    second = try_all(OK)[0]
    assert (second.event, second.body, second.number) == (first.event, first.body, 2)


def test_a_delivery_is_redelivered_through_its_own_endpoint_only(tenant: str) -> None:
    webhook, other = make_webhook(tenant, "job.succeeded"), make_webhook(tenant, "model.*")
    run_a_job(tenant)
    with transaction() as session, pytest.raises(ModelpressError, match="no object"):
        webhooks.redeliver(session, tenant, other.id, the_delivery(tenant, webhook.id).id)


def test_both_secrets_sign_for_a_day_after_rotation(tenant: str) -> None:
    webhook = make_webhook(tenant, "job.succeeded")
    with transaction() as session:
        rotated = webhooks.rotate(session, tenant, webhook.id)
    run_a_job(tenant)
    assert try_all(DOWN)[0].secrets == (rotated.secret, webhook.secret)
    with transaction() as session:
        session.execute(text("UPDATE webhooks SET previous_secret_until = now() - interval '1 s'"))
    make_due()
    assert try_all(OK)[0].secrets == (rotated.secret,)


def test_a_deleted_endpoint_is_forgotten_even_while_it_is_sent_to(tenant: str) -> None:
    webhook = make_webhook(tenant, "job.succeeded")
    run_a_job(tenant)
    with transaction() as session:
        due = deliveries.claim_due(session)
        webhooks.delete(session, tenant, webhook.id)
    with transaction() as session:
        deliveries.record(session, due[0], OK)
        assert webhooks.list_(session, tenant).data == ()


def test_nothing_is_sent_when_the_transaction_fails(tenant: str) -> None:
    make_webhook(tenant)
    job = make_job(tenant)
    with transaction() as session:
        before = len(session.scalars(select(OutboxRow)).all())
    with pytest.raises(ZeroDivisionError), transaction() as session:
        assert jobs.cancel(session, tenant, job).state == "running" or 1 / 0
    with transaction() as session:
        assert len(session.scalars(select(OutboxRow)).all()) == before
        assert session.scalars(select(DeliveryRow)).all() == []


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "https://10.0.0.1/", "http://1.1.1.1/", "ftp://127.0.0.1/"])
def test_an_address_that_may_not_be_reached_is_refused_when_saved(tenant: str, url: str) -> None:
    with transaction() as session, pytest.raises(ModelpressError) as caught:
        webhooks.create(session, tenant, WebhookCreate(url=url))
    assert (caught.value.code, caught.value.pointer) == ("invalid_webhook_url", "/url")


def test_an_unknown_event_is_refused(tenant: str, session: Session) -> None:
    with pytest.raises(ModelpressError) as caught:
        webhooks.create(session, tenant, WebhookCreate(url=URL, events=("job.*", "job.exploded")))
    assert caught.value.pointer == "/events/1"


def test_secrets_are_shown_once(tenant: str) -> None:
    webhook = make_webhook(tenant)
    with transaction() as session:
        renamed = webhooks.rename(session, tenant, webhook.id, Rename(name="new", metadata={"a": "b"}))
        assert webhooks.list_(session, tenant).data == (renamed,)
    assert renamed.name == "new"
    assert webhook.secret not in renamed.model_dump_json()


def test_events_are_listed_newest_first(tenant: str) -> None:
    job = run_a_job(tenant)
    other = run_a_job(tenant)
    with transaction() as session:
        first = events.list_(session, tenant, limit=1)
        about = events.list_(session, tenant, subject=job)
    assert (first.data[0].type, first.data[0].data["id"], first.has_more) == ("job.succeeded", other, True)
    assert [event.type for event in about.data] == ["job.succeeded", "job.running"]
