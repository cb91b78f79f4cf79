"""The form that asks for a job: made from the schemas, checked by a dry run, sent to the queue."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_hex
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import ValidationError

from api.dashboard import formats, forms, patches
from api.dashboard.rendering import Done, PageRoute, Seen, View, see
from api.errors import pointer
from core.errors import ModelpressError
from core.resources.job import DryRun, JobCreate
from core.resources.system import Method
from core.services import datasets, idempotency, jobs, methods, models
from core.specs.recipe import Constraints, Limits, Target
from core.states import InspectionState

router = APIRouter(route_class=PageRoute)

STEP = "recipe.steps.0"
METHOD = f"{STEP}.method"
# The method whose settings the form shows; another one may have been chosen since.
SHOWN = "shown_method"
CHOICES = 200
SECTIONS = {
    section: schema.model_json_schema()
    for section, schema in (("target", Target), ("constraints", Constraints), ("limits", Limits))
}
PLAIN = ("model", "dataset", "name", "seed", "webhook_url")
EXPECTED_ERROR = "The request is not complete."


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a form: the texts, the request they make, and what speaks against it."""

    texts: Mapping[str, str]
    errors: Mapping[str, str]
    message: str | None = None
    asked: JobCreate | None = None
    plan: DryRun | None = None


async def sent_texts(request: Request) -> dict[str, str]:
    """The fields of a form, as text; settings of a method that is no longer the chosen one are left out."""
    texts = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    if texts.pop(SHOWN, texts.get(METHOD)) == texts.get(METHOD):
        return texts
    return {name: value for name, value in texts.items() if name == METHOD or not name.startswith(f"{STEP}.")}


Texts = Annotated[dict[str, str], Depends(sent_texts)]


@router.get("/jobs/new")
def show_form(view: Seen, model: str = "", dataset: str = "", method: str = "", like: str | None = None) -> Response:
    """The empty form, or with `like` the form of an earlier job."""
    given = {"model": model, "dataset": dataset, METHOD: method}
    texts = {name: value for name, value in given.items() if value}
    if like is not None:
        job = jobs.get(view.session, view.tenant, like)
        texts = texts_of_job(job.model_dump(mode="json", include=set(JobCreate.model_fields))) | texts
        texts.pop("name", None)
        texts.setdefault("dataset", "")
    return form_page(view, Checked(texts, {}))


@router.post("/jobs/new")
def check_form(view: Seen, texts: Texts) -> Response:
    """The form again, with the dry run's answer; a repair that was chosen is applied first."""
    checked = check(view, texts)
    chosen = texts.get("repair", "")
    if chosen.isdigit() and checked.plan is not None and checked.asked is not None:
        repairs = [objection.repair for objection in checked.plan.objections]
        repair = repairs[int(chosen)] if int(chosen) < len(repairs) else None
        if repair:
            mended = patches.apply(repair, checked.asked.model_dump(mode="json"))
            checked = check(view, {"csrf_token": "", **texts_of_job(mended)})
    return form_page(view, checked)


@router.post("/jobs")
def queue_job(view: Done, texts: Texts) -> Response:
    """Queue the job, or show what is wrong with it."""
    view.need("jobs:write")
    checked = check(view, texts, plan=False)
    if checked.asked is None:
        return form_page(view, checked, status=422)
    try:
        # What a refused `create` began must not be committed with the page that says so.
        with view.session.begin_nested():
            return see(queue_once(view, texts, checked.asked))
    except ModelpressError as error:
        # The same form, sent twice by a double click: the first one is about to queue the job.
        if error.code == "idempotency_in_flight":
            return see("/jobs")
        return form_page(view, explained(texts, error), status=422)


def queue_once(view: View, texts: Mapping[str, str], asked: JobCreate) -> str:
    """Queue the job unless this very form has done so; the path of its page."""
    fingerprint = sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()
    stored = idempotency.begin(view.session, view.tenant, f"form {fingerprint}", fingerprint)
    if stored is not None:
        return stored.headers["Location"]
    path = f"/jobs/{jobs.create(view.session, view.tenant, asked).id}"
    idempotency.finish(
        view.session, view.tenant, f"form {fingerprint}", status=303, headers={"Location": path}, body=""
    )
    return path


def check(view: View, texts: Mapping[str, str], *, plan: bool = True) -> Checked:
    """Read the form, validate it, and plan the job without queueing it."""
    body = request_body(texts)
    try:
        asked = JobCreate.model_validate(body)
        planned = jobs.plan(view.session, view.tenant, asked) if plan else None
        blocking = [each for each in planned.objections if each.severity == "blocks"] if planned else []
        errors = {field_of(objection.pointer): objection.text for objection in blocking}
        return Checked(texts, errors, asked=asked, plan=planned)
    except ValidationError as error:
        errors = {
            field_of(pointer({**each, "loc": ("body", *each["loc"])}, body)): each["msg"] for each in error.errors()
        }
        return Checked(texts, errors, message=EXPECTED_ERROR)
    except ModelpressError as error:
        return explained(texts, error)


def explained(texts: Mapping[str, str], error: ModelpressError) -> Checked:
    """The form with a refusal at its field."""
    return Checked(texts, {field_of(error.pointer): error.detail}, message=error.detail)


def request_body(texts: Mapping[str, str]) -> dict[str, Any]:
    """The JSON body of `POST /v1/jobs` that the form stands for."""
    method = chosen_method(texts)
    step = {"method": method.name, **forms.read(method.json_schema, STEP, texts)}
    plain = {name: texts[name].strip() for name in PLAIN if texts.get(name, "").strip()}
    sections = {name: forms.read(schema, name, texts) for name, schema in SECTIONS.items()}
    return {"model": "", **plain, "recipe": {"version": 1, "steps": [step]}, **sections}


def chosen_method(texts: Mapping[str, str]) -> Method:
    """The method that the form is for; the first one if none or an unknown one is named."""
    known = methods.list_().data
    return next((method for method in known if method.name == texts.get(METHOD)), known[0])


def texts_of_job(body: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a form that stands for a request."""
    method = chosen_method({METHOD: body["recipe"]["steps"][0]["method"]})
    return forms.texts_of(body, whole=forms.open_names(method.json_schema, STEP))


def field_of(place: str | None) -> str:
    """The dotted name of the control that a JSON pointer leads to."""
    return (place or "").strip("/").replace("/", ".")


def form_page(view: View, checked: Checked, *, status: int = 200) -> Response:
    """The form with everything that can be chosen."""
    method = chosen_method(checked.texts)
    step = forms.fields(method.json_schema, STEP, texts=checked.texts, errors=checked.errors)
    ready = InspectionState.READY
    values: dict[str, object] = {
        "methods": methods.list_().data,
        "method": method,
        "method_name": METHOD,
        "shown_name": SHOWN,
        "models": models.list_(view.session, view.tenant, limit=CHOICES, state=ready).data,
        "datasets": datasets.list_(view.session, view.tenant, limit=CHOICES, state=ready).data,
        "texts": checked.texts,
        "errors": checked.errors,
        "message": checked.message,
        "plan": checked.plan,
        "step_groups": forms.groups([field for field in step if field.name != METHOD]),
        "sections": {
            name: forms.fields(schema, name, texts=checked.texts, errors=checked.errors)
            for name, schema in SECTIONS.items()
        },
        "once": token_hex(16),
        "field_of": field_of,
        "short_size": formats.short_size,
        "duration": formats.duration,
    }
    return view.page("new_job.html", values, status=status)
