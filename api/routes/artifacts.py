"""`/v1/artifacts`."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.deps import Reader, Reading, Storage
from api.downloads import RESPONSES, send
from core.resources.job import Artifact
from core.services import artifacts

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])


@router.get("/{artifact}")
def get_artifact(artifact: str, principal: Reader, session: Reading) -> Artifact:
    """One artifact: a manifest of files."""
    return artifacts.get(session, principal.tenant, artifact)


@router.head("/{artifact}/content", include_in_schema=False)
@router.get("/{artifact}/content", response_class=Response, responses=RESPONSES)
def get_artifact_content(
    artifact: str, request: Request, principal: Reader, session: Reading, blobs: Storage
) -> Response:
    """The bytes of an artifact."""
    return send(request, artifacts.get(session, principal.tenant, artifact), blobs)
