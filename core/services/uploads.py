"""Bytes that users sent."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from core.database.tables import Json, UploadRow
from core.errors import ModelpressError
from core.ids import new_id
from core.resources.model import Upload
from core.services.tenancy import get_owned

FILENAME_LENGTH = 255


def record(session: Session, tenant: str, filename: str, sha256: str, size: int) -> Upload:
    """Notes that the blob `sha256` of `size` bytes was received; the file name is only a label."""
    label = "".join(sign for sign in filename if sign.isprintable())[:FILENAME_LENGTH]
    row = UploadRow(id=new_id("upl"), tenant_id=tenant, filename=label or "unnamed", sha256=sha256, bytes=size)
    session.add(row)
    session.flush()
    return _show(row)


def get(session: Session, tenant: str, identifier: str) -> Upload:
    """One upload; raises `not_found`."""
    return _show(get_owned(session, UploadRow, tenant, identifier))


def take(session: Session, tenant: str, identifiers: Sequence[str]) -> list[Json]:
    """The files of these uploads as a model or data set keeps them; raises `not_found` with a pointer."""
    return [_take(session, tenant, position, identifier) for position, identifier in enumerate(identifiers)]


def _take(session: Session, tenant: str, position: int, identifier: str) -> Json:
    try:
        row = get_owned(session, UploadRow, tenant, identifier)
    except ModelpressError as error:
        error.pointer = f"/uploads/{position}"
        raise
    return {"filename": row.filename, "sha256": row.sha256, "bytes": row.bytes}


def _show(row: UploadRow) -> Upload:
    return Upload(id=row.id, created_at=row.created_at, filename=row.filename, sha256=row.sha256, bytes=row.bytes)
