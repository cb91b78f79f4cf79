"""Sends the messages that committed transactions left."""

from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.tables import OutboxRow
from core.queue import BrokerUnavailable

Publish = Callable[[str, str], None]


def drain(session: Session, publish: Publish, limit: int = 100) -> int:
    """Sends up to `limit` waiting messages as `publish(task, subject)`, oldest first; gives how many were sent.

    Several may drain at once. When the broker does not answer the rest stays; a message that was sent but whose
    commit failed is sent again, which is harmless.
    """
    statement = (
        select(OutboxRow)
        .where(OutboxRow.sent_at.is_(None))
        .order_by(OutboxRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    sent = 0
    for row in session.scalars(statement).all():
        try:
            publish(row.task, row.subject_id)
        except BrokerUnavailable:
            break
        row.sent_at = func.now()
        sent += 1
    session.flush()
    return sent
