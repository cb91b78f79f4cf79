"""A POST that is done once, however often it is sent with the same Idempotency-Key."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.deps import Caller, Writing
from core.services import idempotency

SECRET_FIELDS = frozenset({"secret", "token"})

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="The same key and body give the same answer for 24 h; secrets are left out of a repeated answer.",
    ),
]


async def fingerprint(request: Request) -> str:
    """What makes two requests the same: method, path, query and body."""
    return digest(request, await request.body())


def digest(request: Request, content: bytes) -> str:
    """The SHA-256 of method, path, query and the bytes given, as hexadecimal digits."""
    line = f"{request.method} {request.url.path}?{request.url.query}\n"
    return hashlib.sha256(line.encode() + content).hexdigest()


@dataclass(frozen=True)
class Once:
    """One POST in one transaction: the work and its remembered answer are kept together or not at all."""

    session: Session
    tenant: str
    key: str | None
    fingerprint: str

    def answer(self, work: Callable[[], BaseModel], *, status: int, location: str | None = None) -> Response:
        """Do the work and answer with what it made, or repeat the first answer.

        `location` is a path in which `{id}` stands for the id of what was made.
        """
        stored = idempotency.begin(self.session, self.tenant, self.key, self.fingerprint) if self.key else None
        if stored is not None:
            headers = {**stored.headers, "Idempotent-Replayed": "true"}
            return Response(stored.body, stored.status, headers, media_type="application/json")
        made = work()
        headers = {"Location": location.format(id=getattr(made, "id", ""))} if location else {}
        if self.key:
            body = made.model_dump_json(exclude=set(SECRET_FIELDS))
            idempotency.finish(self.session, self.tenant, self.key, status=status, headers=headers, body=body)
        return Response(made.model_dump_json(), status, headers, media_type="application/json")


def once(
    request_fingerprint: Annotated[str, Depends(fingerprint)],
    principal: Caller,
    session: Writing,
    idempotency_key: IdempotencyKey = None,
) -> Once:
    """The dependency of every POST but uploads, whose body is not read twice."""
    return Once(session, principal.tenant, idempotency_key, request_fingerprint)


Idempotent = Annotated[Once, Depends(once)]
