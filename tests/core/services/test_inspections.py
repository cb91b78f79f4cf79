import pytest
from sqlalchemy import select, text

from core.database.session import transaction
from core.database.tables import EventRow
from core.resources.shape import Failure
from core.services import datasets, inspections, jobs, leases, models, sweeps
from core.services.inspections import InspectionClaim
from core.services.leases import LeaseLost
from tests.core.services.makers import ask, described_dataset, described_model, make_dataset, make_model


def claim() -> InspectionClaim:
    with transaction() as session:
        found = inspections.claim(session, "one")
    assert found is not None
    return found


def event_types() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(EventRow.type).order_by(EventRow.id)))


def test_models_and_data_sets_become_ready(tenant: str) -> None:
    model, dataset = make_model(tenant, ready=False), make_dataset(tenant, ready=False)
    first, second = claim(), claim()
    assert (first.lease.id, first.kind, first.spec) == (model, "model", None)
    assert (second.lease.id, second.kind) == (dataset, "dataset")
    assert second.spec is not None
    with transaction() as session:
        assert inspections.claim(session, "two") is None
        assert leases.renew(session, first.lease) == leases.Beat(cancel=False)
        inspections.accept(session, first.lease, described_model())
        inspections.accept(session, second.lease, described_dataset())
    with transaction() as session:
        assert models.get(session, tenant, model).parameters == 8790
        assert datasets.get(session, tenant, dataset).classes == 10
    assert event_types() == ["model.ready", "dataset.ready"]


def test_a_rejected_model_says_why(tenant: str) -> None:
    model = make_model(tenant, ready=False)
    failure = Failure(code="unsupported_operator", detail="No.", node="/loop")
    found = claim()
    with transaction() as session:
        inspections.reject(session, found.lease, failure)
    with transaction() as session:
        shown = models.get(session, tenant, model)
    assert (shown.state, shown.error) == ("rejected", failure)
    assert event_types() == ["model.rejected"]


def test_a_stale_inspector_can_write_nothing(tenant: str) -> None:
    make_model(tenant, ready=False)
    stale = claim().lease
    with transaction() as session:
        session.execute(text("UPDATE models SET lease_expires_at = now() - interval '1 s'"))
    with transaction() as session:
        assert sweeps.sweep(session).lost_inspections == 1
    fresh = claim().lease
    for write in (
        lambda session: inspections.accept(session, stale, described_model()),
        lambda session: inspections.reject(session, stale, Failure(code="corrupt_file", detail="x")),
        lambda session: leases.lose(session, stale, "x"),
        lambda session: leases.release(session, stale),
    ):
        with pytest.raises(LeaseLost), transaction() as session:
            write(session)
    with transaction() as session:
        assert leases.renew(session, stale) is None
        inspections.accept(session, fresh, described_model())


def test_a_file_that_kills_its_inspector_is_rejected_after_three(tenant: str) -> None:
    model = make_model(tenant, ready=False)
    for _ in range(3):
        with transaction() as session:
            session.execute(text("UPDATE models SET run_after = now()"))
        lease = claim().lease
        with transaction() as session:
            leases.lose(session, lease, "killed by signal 11")
    with transaction() as session:
        shown = models.get(session, tenant, model)
    assert shown.state == "rejected"
    assert shown.error is not None
    assert shown.error.code == "worker_lost"


def test_deleting_takes_the_lease_away(tenant: str) -> None:
    model = make_model(tenant, ready=False)
    lease = claim().lease
    with transaction() as session:
        models.delete(session, tenant, model)
    with transaction() as session:
        assert leases.renew(session, lease) is None


def test_descriptions_of_an_older_inspector_are_remade(tenant: str) -> None:
    model = make_model(tenant)
    with transaction() as session:
        session.execute(text("UPDATE models SET inspector_version = 0"))
    with transaction() as session:
        assert sweeps.sweep(session).outdated == 1
        assert sweeps.sweep(session).outdated == 0
    lease = claim().lease
    assert lease.id == model
    with transaction() as session:
        inspections.accept(session, lease, described_model())
    with transaction() as session:
        assert models.get(session, tenant, model).state == "ready"
    assert event_types() == []


def test_a_newer_inspector_that_rejects_is_news(tenant: str) -> None:
    make_model(tenant)
    with transaction() as session:
        session.execute(text("UPDATE models SET inspector_version = 0"))
    with transaction() as session:
        sweeps.sweep(session)
    lease = claim().lease
    with transaction() as session:
        inspections.reject(session, lease, Failure(code="unsafe_file", detail="No."))
    assert event_types() == ["model.rejected"]


def test_words_of_an_older_inspector_are_no_error(tenant: str) -> None:
    model = make_model(tenant)
    with transaction() as session:
        session.execute(text("UPDATE models SET inspector_version = 0, description = '{\"old\": 1}'"))
    with transaction() as session:
        assert models.get(session, tenant, model).state == "inspecting"
        assert models.layers(session, tenant, model).data == ()
        assert jobs.plan(session, tenant, ask(model, None)).objections[0].code == "model_not_ready"
