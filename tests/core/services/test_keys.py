from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.database.session import read_only, transaction
from core.database.tables import KeyRow, SessionRow, SignInLinkRow
from core.errors import ModelpressError
from core.resources.system import SCOPES, KeyCreate
from core.services import keys, sign_in


def refused(session: Session, token: str) -> bool:
    with pytest.raises(ModelpressError) as caught:
        keys.authenticate(session, token)
    return caught.value.code == "unauthenticated"


def test_a_token_stands_for_its_tenant_and_scopes(tenant: str, session: Session) -> None:
    made = keys.create(session, tenant, KeyCreate(name="ci", scopes=("read", "jobs:write")))
    principal = keys.authenticate(session, made.token)
    assert principal == keys.Principal(tenant, frozenset({"read", "jobs:write"}), made.id)
    keys.touch(session, made.id)
    session.expire_all()
    assert keys.list_(session, tenant).data[0].last_used_at is not None


def test_only_the_hash_of_a_secret_is_kept(tenant: str, session: Session) -> None:
    token = keys.create(session, tenant, KeyCreate(name="ci")).token
    link = sign_in.create_link(session, tenant)
    cookie, _ = sign_in.open_session(session, key=token)
    stored = [str(vars(row)) for table in (KeyRow, SignInLinkRow, SessionRow) for row in session.scalars(select(table))]
    assert len(stored) == 3
    for secret in (token.rpartition("_")[2], link, cookie):
        assert not any(secret in row for row in stored)


def test_wrong_tokens_are_refused(tenant: str, session: Session) -> None:
    made = keys.create(session, tenant, KeyCreate(name="ci"))
    other = keys.create(session, tenant, KeyCreate(name="other"))
    secret = made.token.rpartition("_")[2]
    wrong = [
        "",
        "mp_",
        "mp__",
        made.token[:-1],
        made.token + "a",
        made.token.removeprefix("mp_"),
        f"mp_{other.id.removeprefix('key_')}_{secret}",
        "mp_\x00_" + secret,
        f"mp_' OR 1=1 --_{secret}",
        f"mp_{made.id}_{secret}",
    ]
    assert all(refused(session, token) for token in wrong)


def test_revoked_and_expired_keys_are_refused(tenant: str, session: Session) -> None:
    revoked = keys.create(session, tenant, KeyCreate(name="old"))
    expired = keys.create(session, tenant, KeyCreate(name="late", expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    keys.revoke(session, tenant, revoked.id)
    keys.revoke(session, tenant, revoked.id)
    assert refused(session, revoked.token)
    assert refused(session, expired.token)


def test_a_link_signs_in_once(tenant: str, session: Session) -> None:
    link = sign_in.create_link(session, tenant)
    cookie, csrf = sign_in.open_session(session, link=link)
    principal = sign_in.authenticate_session(session, cookie)
    assert (principal.tenant, principal.scopes, principal.csrf) == (tenant, frozenset(SCOPES), csrf)
    with pytest.raises(ModelpressError, match="used or is too old"):
        sign_in.open_session(session, link=link)


def test_an_old_link_is_refused(tenant: str, session: Session) -> None:
    link = sign_in.create_link(session, tenant)
    session.execute(text("UPDATE sign_in_links SET expires_at = now() - interval '1 s'"))
    with pytest.raises(ModelpressError, match="too old"):
        sign_in.open_session(session, link=link)


def test_a_session_ends_with_its_key(tenant: str, session: Session) -> None:
    key = keys.create(session, tenant, KeyCreate(name="me"))
    cookie, _ = sign_in.open_session(session, key=key.token)
    assert sign_in.authenticate_session(session, cookie).key_id == key.id
    keys.revoke(session, tenant, key.id)
    with pytest.raises(ModelpressError, match="ended"):
        sign_in.authenticate_session(session, cookie)


def test_a_closed_session_is_gone(tenant: str, session: Session) -> None:
    cookie, _ = sign_in.open_session(session, link=sign_in.create_link(session, tenant))
    sign_in.close_session(session, cookie)
    with pytest.raises(ModelpressError, match="ended"):
        sign_in.authenticate_session(session, cookie)


def test_the_first_tenant_is_made_once(database: str) -> None:
    with transaction() as session:
        first = sign_in.ensure_tenant(session)
    with transaction() as session:
        assert sign_in.ensure_tenant(session) == first


def test_a_read_only_session_cannot_write(tenant: str) -> None:
    with pytest.raises(Exception, match="read-only"), read_only() as session:
        sign_in.create_link(session, tenant)
