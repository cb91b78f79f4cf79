"""What finished jobs keep."""

from sqlalchemy.orm import Session

from core.database.tables import ArtifactRow, JobRow
from core.errors import ModelpressError
from core.resources.job import Artifact
from core.services.job_views import final_artifacts, show_artifact
from core.services.tenancy import get_owned


def list_(session: Session, tenant: str, job: str) -> tuple[Artifact, ...]:
    """The artifacts of a job, none until it has succeeded; raises `not_found`."""
    row = get_owned(session, JobRow, tenant, job)
    return tuple(show_artifact(artifact) for artifact in final_artifacts(session, row))


def get(session: Session, tenant: str, identifier: str) -> Artifact:
    """One artifact; raises `not_found`."""
    row = get_owned(session, ArtifactRow, tenant, identifier)
    if row.state != "final":
        raise ModelpressError("not_found", f"There is no object {identifier[:60]!r}.")
    return show_artifact(row)
