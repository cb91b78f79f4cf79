import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, InternalError

from core.database.session import read_only, transaction
from core.database.tables import TenantRow


def names() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(TenantRow.name)))


def add(name: str) -> None:
    with transaction() as session:
        session.add(TenantRow(id=f"tnt_{name}", name=name))


def test_a_block_that_ends_is_committed(database: str) -> None:
    add("kept")
    assert names() == ["kept"]


def test_a_block_that_raises_leaves_nothing(database: str) -> None:
    def add_and_break() -> None:
        with transaction() as session:
            session.add(TenantRow(id="tnt_lost", name="lost"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add_and_break()
    assert names() == []


def test_reading_cannot_write(database: str) -> None:
    with read_only() as session:
        assert session.scalars(select(TenantRow)).all() == []
        with pytest.raises(InternalError, match="read-only"):
            session.execute(text("INSERT INTO tenants (id, name) VALUES ('tnt_x', 'x')"))
        session.rollback()


def test_waits_are_bounded_and_times_are_utc(database: str) -> None:
    with transaction() as session:
        shown = {
            name: session.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone")
        }
    assert shown == {
        "statement_timeout": "15s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "30s",
        "timezone": "UTC",
    }


def test_a_running_job_without_a_lease_cannot_be_stored(tenant: str) -> None:
    """A lease that is NULL is never expired: such a job would hang for ever."""
    model = (
        "INSERT INTO models (id, tenant_id, name, state, files, sha256, bytes) VALUES ('m', :t, '', '', '[]', '', 0)"
    )
    job = (
        "INSERT INTO jobs (id, tenant_id, name, model_id, request, seed, state) "
        "VALUES ('j', :t, '', 'm', '{}', 0, 'running')"
    )
    with transaction() as session:
        session.execute(text(model), {"t": tenant})
    with pytest.raises(IntegrityError, match="running_is_leased"), transaction() as session:
        session.execute(text(job), {"t": tenant})
