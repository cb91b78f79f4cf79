import pytest
from sqlalchemy import text

from core.database.session import transaction
from core.errors import ModelpressError
from core.services import idempotency
from core.services.idempotency import Stored
from tests.conftest import make_tenant


def answer(tenant: str, key: str = "key", request: str = "a", body: str = "{}") -> Stored | None:
    with transaction() as session:
        stored = idempotency.begin(session, tenant, key, request)
        if stored is None:
            idempotency.finish(session, tenant, key, status=202, headers={"Location": "/x"}, body=body)
    return stored


def test_the_first_answer_is_given_again(tenant: str) -> None:
    assert answer(tenant, body="first") is None
    assert answer(tenant) == Stored(status=202, headers={"Location": "/x"}, body="first")


def test_another_request_under_the_same_key_is_refused(tenant: str) -> None:
    answer(tenant)
    with pytest.raises(ModelpressError) as caught:
        answer(tenant, request="b")
    assert caught.value.code == "idempotency_conflict"


def test_a_request_that_failed_may_be_sent_again(tenant: str) -> None:
    with pytest.raises(ZeroDivisionError), transaction() as session:
        assert idempotency.begin(session, tenant, "key", "a") or 1 / 0
    assert answer(tenant, request="b") is None


def test_a_second_request_is_refused_while_the_first_runs(tenant: str) -> None:
    with transaction() as session:
        idempotency.begin(session, tenant, "key", "a")
        with pytest.raises(ModelpressError) as caught:
            answer(tenant)
    assert caught.value.code == "idempotency_in_flight"


def test_tenants_do_not_share_keys(tenant: str) -> None:
    answer(tenant)
    assert answer(make_tenant(), request="b") is None


def test_a_key_is_forgotten_after_a_day(tenant: str) -> None:
    answer(tenant)
    with transaction() as session:
        session.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'"))
    assert answer(tenant, request="b") is None
