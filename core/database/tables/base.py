"""Columns that tables share, and how they are named and typed."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Double, ForeignKey, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

Json = dict[str, Any]


class Table(DeclarativeBase):
    """Base of every table; constraint names follow one convention so that migrations are stable."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        datetime: DateTime(timezone=True),
        float: Double,
        Json: JSONB(none_as_null=True),
        list[Json]: JSONB,
        list[str]: ARRAY(Text),
    }


class Created:
    """A row that remembers when it was made, by the database's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Owned(Created):
    """A row of one tenant; every query on it goes through `core.services.tenancy`.

    Tenants are not deleted, so their foreign keys carry an index only where a list needs one.
    """

    @declared_attr
    def tenant_id(cls) -> Mapped[str]:  # noqa: N805 - SQLAlchemy's declared_attr takes the class
        """The tenant that the row belongs to."""
        return mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))


class Identified(Owned):
    """A row of one tenant that users know by its id."""

    id: Mapped[str] = mapped_column(primary_key=True)


class Leased:
    """A row that one worker at a time works on: a lease with a heartbeat and a fencing token, the epoch."""

    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    worker_losses: Mapped[int] = mapped_column(server_default=text("0"))
    run_after: Mapped[datetime] = mapped_column(server_default=func.now())
