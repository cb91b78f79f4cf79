"""`/v1/artifacts`."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.deps import Reader, Reading, Storage
from api.downloads import send
from core.resources.job import Artifact
from core.services import artifacts

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

_CONTENT = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/{artifact}")
def get_artifact(artifact: str, principal: Reader, session: Reading) -> Artifact:
    """One artifact: a manifest of files."""
    return artifacts.get(session, principal.tenant, artifact)


@router.head("/{artifact}/content", include_in_schema=False)
@router.get(
    "/{artifact}/content",
    response_class=Response,
    responses={
        200: {**_CONTENT, "description": "The file, or a zip of several. ETag is the SHA-256."},
        206: {**_CONTENT, "description": "The byte range asked for."},
        304: {"description": "If-None-Match names these bytes."},
    },
)
def get_artifact_content(
    artifact: str, request: Request, principal: Reader, session: Reading, blobs: Storage
) -> Response:
    """The bytes of an artifact."""
    return send(request, artifacts.get(session, principal.tenant, artifact), blobs)
