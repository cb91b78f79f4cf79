"""API keys: `mp_<id>_<secret>`. The secret has 256 random bits, so its plain SHA-256 is all that is kept."""

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from core.database.tables import KeyRow
from core.errors import ModelpressError
from core.ids import new_id
from core.resources.shape import Page
from core.resources.system import SCOPES, Key, KeyCreate, KeyWithSecret, Scope
from core.services.pages import page
from core.services.tenancy import get_owned, owned

_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 43


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a tenant, what it may do, and by which key or browser session (then with its CSRF token)."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    csrf: str | None = None


def create(session: Session, tenant: str, asked: KeyCreate) -> KeyWithSecret:
    """A new key, with the only sight of its token."""
    secret = new_secret()
    row = KeyRow(
        id=new_id("key"),
        tenant_id=tenant,
        name=asked.name,
        secret_sha256=digest(secret),
        scopes=list(asked.scopes),
        expires_at=asked.expires_at,
    )
    session.add(row)
    session.flush()
    return KeyWithSecret(**dict(_show(row)), token=f"mp_{row.id.removeprefix('key_')}_{secret}")


def list_(session: Session, tenant: str, *, limit: int = 50, after: str | None = None) -> Page[Key]:
    """Keys, newest first, revoked ones too."""
    return page(session, owned(KeyRow, tenant), KeyRow, limit=limit, after=after, show=_show_all)


def revoke(session: Session, tenant: str, identifier: str) -> None:
    """Makes a key useless from now on; revoking twice is no error."""
    row = get_owned(session, KeyRow, tenant, identifier, lock="update")
    if row.revoked_at is None:
        row.revoked_at = func.now()
        session.flush()


def authenticate(session: Session, token: str) -> Principal:
    """Who a bearer token stands for; raises `unauthenticated` alike for every fault."""
    identifier, _, secret = token.removeprefix("mp_").partition("_")
    row = find_live(session, f"key_{identifier}") if token.startswith("mp_") and secret.isalnum() else None
    # Compared even when there is no such key, so that the time taken tells nothing.
    known = row.secret_sha256 if row else digest("")
    if not secrets.compare_digest(known, digest(secret)) or row is None:
        raise ModelpressError("unauthenticated", "The key is unknown, revoked or expired.")
    return Principal(tenant=row.tenant_id, scopes=scopes_of(row.scopes), key_id=row.id)


def find_live(session: Session, identifier: str) -> KeyRow | None:
    """The key of that id, whosever it is, unless it is revoked or expired."""
    statement = select(KeyRow).where(
        KeyRow.id == identifier.replace("\x00", ""),
        KeyRow.revoked_at.is_(None),
        or_(KeyRow.expires_at.is_(None), KeyRow.expires_at > func.now()),
    )
    return session.scalars(statement).one_or_none()


def touch(session: Session, identifier: str) -> None:
    """Notes that a key was used; once a minute at most, so that a busy key costs no write a request."""
    stale = or_(KeyRow.last_used_at.is_(None), KeyRow.last_used_at < func.now() - timedelta(minutes=1))
    session.execute(update(KeyRow).where(KeyRow.id == identifier, stale).values(last_used_at=func.now()))


def new_secret() -> str:
    """256 random bits as letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return sha256(secret.encode()).hexdigest()


def scopes_of(texts: Sequence[str]) -> frozenset[Scope]:
    """The scopes that the database keeps as text."""
    return frozenset(scope for scope in SCOPES if scope in texts)


def _show(row: KeyRow) -> Key:
    return Key(
        id=row.id,
        created_at=row.created_at,
        name=row.name,
        scopes=tuple(scope for scope in SCOPES if scope in row.scopes),
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _show_all(rows: Sequence[KeyRow]) -> list[Key]:
    return [_show(row) for row in rows]
