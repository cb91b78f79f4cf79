"""What users give: bytes, models and data sets."""

from sqlalchemy import BigInteger, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from core.database.tables.base import Identified, Json, Leased, Table


class UploadRow(Identified, Table):
    """Bytes that a user sent, kept as a blob of that SHA-256."""

    __tablename__ = "uploads"

    filename: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index(None, "tenant_id", "id"),)


class Inspected(Leased):
    """A model or a data set: files, a state, and what inspection found."""

    name: Mapped[str]
    user_metadata: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str]
    files: Mapped[list[Json]]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[Json | None]
    inspector_version: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[Json | None]


class ModelRow(Inspected, Identified, Table):
    """A neural network that a user uploaded."""

    __tablename__ = "models"

    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index("ix_models_inspecting", "run_after", postgresql_where=text("state = 'inspecting'")),
    )


class DatasetRow(Inspected, Identified, Table):
    """Uploaded samples and how they are to be read."""

    __tablename__ = "datasets"

    spec: Mapped[Json]

    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index("ix_datasets_inspecting", "run_after", postgresql_where=text("state = 'inspecting'")),
    )
