"""Browser sessions: opened by a one-time link or by an API key, closed by the user."""

from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from core.database.tables import SessionRow, SignInLinkRow, TenantRow
from core.errors import ModelpressError
from core.ids import new_id
from core.resources.system import SCOPES
from core.services.keys import Principal, authenticate, digest, find_live, new_secret, scopes_of
from core.settings import settings

LINK_SECONDS = 3600
# Any number; it keeps two processes that start at once from both making the first tenant.
_FIRST_TENANT_LOCK = 20260702


def ensure_tenant(session: Session) -> str:
    """The id of the first tenant, which is made if there is none."""
    session.execute(select(func.pg_advisory_xact_lock(_FIRST_TENANT_LOCK)))
    first = session.scalars(select(TenantRow).order_by(TenantRow.created_at, TenantRow.id).limit(1)).first()
    if first is None:
        first = TenantRow(id=new_id("tnt"), name="default")
        session.add(first)
        session.flush()
    return first.id


def create_link(session: Session, tenant: str) -> str:
    """The token of a link that signs in once, within the hour, with every scope."""
    token = new_secret()
    expires = func.now() + timedelta(seconds=LINK_SECONDS)
    session.add(SignInLinkRow(tenant_id=tenant, token_sha256=digest(token), expires_at=expires))
    session.flush()
    return token


def open_session(session: Session, *, link: str | None = None, key: str | None = None) -> tuple[str, str]:
    """Cookie and CSRF token of a new session; raises `unauthenticated`."""
    principal = _use_link(session, link) if link else authenticate(session, key or "")
    cookie, csrf = new_secret(), new_secret()
    row = SessionRow(
        tenant_id=principal.tenant,
        token_sha256=digest(cookie),
        csrf_token=csrf,
        scopes=sorted(principal.scopes),
        key_id=principal.key_id,
        expires_at=func.now() + timedelta(seconds=settings().session_seconds),
    )
    session.add(row)
    session.flush()
    return cookie, csrf


def authenticate_session(session: Session, cookie: str) -> Principal:
    """Who a cookie stands for; a session dies with the key that opened it. Raises `unauthenticated`."""
    statement = select(SessionRow).where(SessionRow.token_sha256 == digest(cookie), SessionRow.expires_at > func.now())
    row = session.scalars(statement).one_or_none()
    if row is None or (row.key_id is not None and find_live(session, row.key_id) is None):
        raise ModelpressError("unauthenticated", "The session has ended.", hint="Sign in again.")
    return Principal(row.tenant_id, scopes_of(row.scopes), row.key_id, row.csrf_token)


def close_session(session: Session, cookie: str) -> None:
    """Ends a session; an unknown cookie is no error."""
    session.execute(delete(SessionRow).where(SessionRow.token_sha256 == digest(cookie)))


def _use_link(session: Session, link: str) -> Principal:
    statement = (
        update(SignInLinkRow)
        .where(
            SignInLinkRow.token_sha256 == digest(link),
            SignInLinkRow.used_at.is_(None),
            SignInLinkRow.expires_at > func.now(),
        )
        .values(used_at=func.now())
        .returning(SignInLinkRow.tenant_id)
    )
    tenant = session.scalars(statement).one_or_none()
    if tenant is None:
        raise ModelpressError(
            "unauthenticated", "This link was used or is too old.", hint="Run `modelpress up` again or use a key."
        )
    return Principal(tenant, frozenset(SCOPES))
