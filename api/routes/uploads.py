"""`/v1/uploads`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.deps import ModelWriter, Reader, Reading, Storage
from api.idempotency import IdempotencyKey, Once, digest
from api.queries import UploadQuery
from api.uploads import receive
from core.database.session import transaction
from core.resources.model import Upload
from core.services import uploads

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

_RAW_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {
            "name": "Repr-Digest",
            "in": "header",
            "schema": {"type": "string"},
            "description": "`sha-256=:<base64>:` of the body (RFC 9530); checked.",
        }
    ],
}


@router.post("", status_code=201, response_model=Upload, openapi_extra=_RAW_BODY)
async def create_upload(
    request: Request,
    principal: ModelWriter,
    blobs: Storage,
    query: Annotated[UploadQuery, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Upload one file as the raw body."""
    sha256, size = await receive(request, blobs)

    def record() -> Response:
        with transaction() as session:
            once = Once(session, principal.tenant, idempotency_key, digest(request, sha256.encode()))
            return once.answer(
                lambda: uploads.record(session, principal.tenant, query.filename, sha256, size),
                status=201,
                location="/v1/uploads/{id}",
            )

    return await run_in_threadpool(record)


@router.get("/{upload}")
def get_upload(upload: str, principal: Reader, session: Reading) -> Upload:
    """One upload."""
    return uploads.get(session, principal.tenant, upload)
