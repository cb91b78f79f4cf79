"""Plans of earlier jobs, which a job can be asked to follow."""

from collections.abc import Iterator

from sqlalchemy.orm import Session

from core.database.tables import ArtifactRow, JobRow
from core.errors import ModelpressError
from core.resources.job import JobCreate, Objection
from core.services.tenancy import get_owned

KIND = "plan.json"


def find_planned(session: Session, tenant: str, asked: JobCreate) -> JobRow | None:
    """The job whose plan is to be followed, None where none is; raises `not_found` and `invalid_request`."""
    if asked.plan is None:
        return None
    artifact = get_owned(session, ArtifactRow, tenant, asked.plan)
    if artifact.state != "final":
        raise ModelpressError("not_found", f"There is no object {asked.plan[:60]!r}.")
    if artifact.kind != KIND:
        raise ModelpressError("invalid_request", f"This artifact is a {artifact.kind}; a {KIND} is needed.")
    return get_owned(session, JobRow, tenant, artifact.job_id)


def object_to_plan(asked: JobCreate, planned: JobRow | None) -> Iterator[Objection]:
    """What speaks against following the plan of another job: other steps, another model, other data, other settings."""
    if planned is None:
        return
    wanted = [step["method"] for step in planned.request["recipe"]["steps"]]
    given = [step.method for step in asked.recipe.steps]
    if wanted != given:
        text = f"The plan is of the steps {', '.join(wanted)}; the recipe has {', '.join(given)}."
        yield Objection(pointer="/plan", severity="blocks", code="invalid_request", text=text)
    changed = {
        "model": planned.model_id != asked.model,
        "data set": planned.dataset_id != asked.dataset,
        "seed": planned.seed != asked.seed,
        "target": planned.request["target"] != asked.target.model_dump(mode="json"),
        # Of the same methods, since others block.
        "setting": wanted == given and planned.request["recipe"] != asked.recipe.model_dump(mode="json"),
    }
    if others := [name for name, differs in changed.items() if differs]:
        text = f"The plan was made for another {' and another '.join(others)}, so the bytes may differ."
        yield Objection(pointer="/plan", severity="advice", code="invalid_request", text=text)
