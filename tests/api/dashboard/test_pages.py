"""Pages over real rows, without a browser: signing in, every page, forms, refusals, escaping."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import yaml
from fastapi.testclient import TestClient
from httpx2 import Response

from api.app import create_app
from api.dashboard.jobs import recipe_text
from core.database.session import transaction
from core.database.tables import DatasetRow, JobRow, ModelRow
from core.description import SplitDescription, Twin
from core.resources.job import JobCreate
from core.resources.model import Rename
from core.resources.system import Scope
from core.services import job_views, jobs, models, sign_in, uploads
from core.settings import settings
from core.specs.recipe import Limits
from core.states import JobState
from core.verdict import Verdict
from tests.api.conftest import User, bearer
from tests.api.dashboard.samples import job, verdict
from tests.api.dashboard.test_pruned import pruned
from tests.api.world import DATASET, MODEL, World, build_world

ORIGIN = {"origin": "http://127.0.0.1"}
HOSTILE = "<script>alert(1)</script>\"'{{7*7}}"


@pytest.fixture
def world(alice: User) -> World:
    return build_world(alice.tenant)


@pytest.fixture
def page(database: str, alice: User) -> Iterator[TestClient]:
    """A browser that alice has signed in with a key of all scopes."""
    with TestClient(create_app(), base_url="http://127.0.0.1", follow_redirects=False, headers=ORIGIN) as opened:
        enter(opened, alice.headers)
        yield opened


def enter(opened: TestClient, headers: dict[str, str]) -> Response:
    return opened.post("/sign-in", data={"key": headers["Authorization"].removeprefix("Bearer ")})


def csrf(opened: TestClient) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', opened.get("/models").text)
    assert found is not None
    return found[1]


def send(opened: TestClient, path: str, **fields: object) -> Response:
    return opened.post(path, data={"csrf_token": csrf(opened), **fields})


def finish(job: str, told: Verdict | None = None) -> None:
    """What a worker would write at the end of a job."""
    with transaction() as session:
        row = session.get_one(JobRow, job)
        told = told or verdict()
        row.verdict = told.model_dump(mode="json")
        row.headline = job_views.headline_of(told).model_dump(mode="json")
        row.state = JobState.SUCCEEDED


class TestSigningIn:
    def test_every_page_leads_to_it(self, client: TestClient) -> None:
        answer = client.get("/jobs/job_1")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/jobs/job_1")

    def test_htmx_is_sent_there_as_a_whole_page(self, client: TestClient) -> None:
        assert client.get("/jobs", headers={"HX-Request": "true"}).headers["hx-redirect"] == "/sign-in"

    def test_a_key_opens_a_session(self, page: TestClient) -> None:
        assert page.get("/jobs").status_code == 200
        cookie = next(iter(page.cookies.jar))
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "lax"

    @pytest.mark.parametrize("key", ["nonsense", "mp_1_2", ""])
    def test_a_wrong_key_is_refused_on_the_page(self, client: TestClient, key: str) -> None:
        answer = client.post("/sign-in", data={"key": key}, headers=ORIGIN)
        assert answer.status_code in (401, 422)
        assert "modelpress_session" not in client.cookies

    def test_a_key_from_another_site_is_refused(self, client: TestClient, alice: User) -> None:
        key = alice.headers["Authorization"].removeprefix("Bearer ")
        answer = client.post("/sign-in", data={"key": key}, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403

    def test_a_link_works_once(self, client: TestClient, tenant: str) -> None:
        with transaction() as session:
            token = sign_in.create_link(session, tenant)
        assert client.get(f"/sign-in?token={token}").headers["location"] == "/jobs"
        assert client.get("/jobs").status_code == 200
        client.cookies.clear()
        assert client.get(f"/sign-in?token={token}").status_code == 401

    @pytest.mark.parametrize(
        "path", ["https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "jobs"]
    )
    def test_it_leads_only_to_our_own_pages(self, client: TestClient, alice: User, path: str) -> None:
        key = alice.headers["Authorization"].removeprefix("Bearer ")
        answer = client.post("/sign-in", data={"key": key, "next": path}, headers=ORIGIN)
        assert answer.headers["location"] == "/jobs"

    def test_signing_out_ends_the_session(self, page: TestClient) -> None:
        cookie = page.cookies["modelpress_session"]
        assert send(page, "/sign-out").headers["location"] == "/sign-in"
        page.cookies.set("modelpress_session", cookie)
        assert page.get("/jobs").status_code == 303


def describe_anew(model: str, **changes: object) -> None:
    with transaction() as session:
        row = session.get_one(ModelRow, model)
        row.description = MODEL.model_copy(update=changes).model_dump(mode="json")


class TestModelPage:
    def test_says_where_memory_peaks_and_what_no_layer_holds(self, page: TestClient, world: World) -> None:
        describe_anew(
            world.ids["model"], macs=50, planned_activation_node="softmax_1", counted_at={"batch": 1, "tokens": 16}
        )
        text = page.get(f"/models/{world.ids['model']}").text
        assert "softmax_1" in text
        assert "counted at tokens 16" in text
        assert "Outside of layers" in text

    @pytest.mark.parametrize("format_", ["onnx", "pt2", "hf"])
    def test_every_format_has_a_page(self, page: TestClient, world: World, format_: str) -> None:
        describe_anew(world.ids["model"], format=format_)
        assert page.get(f"/models/{world.ids['model']}").status_code == 200

    def test_a_file_that_is_not_read_says_why(self, page: TestClient, world: World) -> None:
        describe_anew(world.ids["model"], mode="onnx_only", why="A Loop is control flow.", why_node="loop_3", layers=())
        text = page.get(f"/models/{world.ids['model']}").text
        assert "A Loop is control flow." in text
        assert "loop_3" in text


def test_a_data_set_shows_its_format_and_labels(page: TestClient, world: World) -> None:
    with transaction() as session:
        row = session.get_one(DatasetRow, world.ids["dataset"])
        splits = {"evaluation": SplitDescription(samples=9, labelled=True, per_class=(2, 7))}
        twins = (Twin(row=4321, split="train", other_row=8, exact=False),)
        update = {"format": "images", "label_names": ("cat", HOSTILE), "classes": 2, "splits": splits, "twins": twins}
        found = DATASET.model_copy(update=update)
        row.description = found.model_dump(mode="json")
    text = page.get(f"/datasets/{world.ids['dataset']}").text
    assert "<dd>images<small>" in text
    assert "cat, &lt;script&gt;" in text
    assert '<th scope="row">cat</th><td class="right">2</td>' in text
    assert "nearly the same" in text


class TestWhereNothingIs:
    def test_a_browser_gets_a_page(self, client: TestClient) -> None:
        answer = client.get("/nothing/here", headers={"accept": "text/html,*/*"})
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert "There is nothing at /nothing/here." in answer.text
        assert client.get("/v1", headers={"accept": "text/html"}).headers["content-type"].startswith("text/html")

    def test_so_does_a_browser_that_sends_what_a_path_does_not_take(self, client: TestClient) -> None:
        answer = client.get("/sign-out", headers={"accept": "text/html"})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.headers["content-type"].startswith("text/html")

    @pytest.mark.parametrize(
        ("path", "accept"), [("/v1/nothing", "text/html"), ("/nothing", "*/*"), ("/nothing", "application/json")]
    )
    def test_a_program_gets_a_problem(self, client: TestClient, path: str, accept: str) -> None:
        answer = client.get(path, headers={"accept": accept})
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


class TestReading:
    def test_the_guide_to_data_has_every_example_as_it_is_written(self, page: TestClient) -> None:
        shown = page.get("/datasets/guide").text
        assert 'id="what-is-refused"' in shown
        assert "{&quot;evaluation&quot;: {&quot;x&quot;: {&quot;left&quot;: &quot;a&quot;" in shown
        assert "{%" not in shown
        assert 'href="/datasets/guide"' in page.get("/datasets").text

    @pytest.mark.parametrize(
        "path", ["/jobs", "/jobs/new", "/models", "/datasets", "/datasets/guide", "/webhooks", "/keys", "/system"]
    )
    def test_lists_of_a_fresh_service(self, page: TestClient, path: str) -> None:
        assert page.get(path).status_code == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/jobs",
            "/jobs?state=cancelled",
            "/jobs/{job}",
            "/jobs/new?like={job}",
            "/jobs/new?model={model}",
            "/models",
            "/models/{model}",
            "/datasets",
            "/datasets/{dataset}",
            "/webhooks",
            "/webhooks/{webhook}",
            "/keys",
        ],
    )
    def test_pages_of_things_that_are_there(self, page: TestClient, world: World, path: str) -> None:
        answer = page.get(path.format(**world.ids))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert "style=" not in answer.text
        assert not re.search(r"\son[a-z]+=", answer.text)

    def test_nobody_sees_the_things_of_others(self, page: TestClient, bob: User) -> None:
        ids = build_world(bob.tenant).ids
        for path in ("/jobs/{job}", "/models/{model}", "/datasets/{dataset}", "/webhooks/{webhook}"):
            answer = page.get(path.format(**ids))
            assert answer.status_code == 404
            assert "text/html" in answer.headers["content-type"]
        assert ids["job"] not in page.get("/jobs").text

    def test_a_finished_job_begins_with_its_verdict(self, page: TestClient, world: World) -> None:
        finish(world.ids["job"])
        text = page.get(f"/jobs/{world.ids['job']}").text
        for words in (
            "no significant change in accuracy",
            "saturation_avoided",
            "conv2 is the most sensitive",
            "9c41e07b5a2f",
        ):
            assert words in text
        assert f"/v1/artifacts/{world.ids['artifact']}/content" in text
        assert "3.83× smaller" in page.get("/jobs").text

    def test_a_pruned_job_shows_shapes_and_curves(self, page: TestClient, world: World) -> None:
        finish(world.ids["job"], pruned(conv1=(0.1, 0.2, 0.4)))
        text = page.get(f"/jobs/{world.ids['job']}").text
        for words in ("20×1×5×5 → 10×1×5×5", "Sensitivity to pruning", "75 % kept", "+0.4000", "plan.json says"):
            assert words in text

    def test_names_are_text_and_nothing_else(self, page: TestClient, world: World, alice: User) -> None:
        with transaction() as session:
            jobs.rename(session, alice.tenant, world.ids["job"], Rename(name=HOSTILE))
            models.rename(session, alice.tenant, world.ids["model"], Rename(name=HOSTILE))
        for path in ("/jobs", f"/jobs/{world.ids['job']}", f"/models/{world.ids['model']}", "/jobs/new"):
            text = page.get(path).text
            assert "&lt;script&gt;" in text
            assert "<script>alert" not in text
            assert "{{7*7}}" in text

    def test_the_files_of_the_pages_are_served_and_nothing_else(self, client: TestClient) -> None:
        first = client.get("/static/modelpress.css")
        assert first.status_code == 200
        again = client.get("/static/modelpress.css", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304
        for path in ("../pages.py", "%2e%2e/pages.py", "nothing.js"):
            assert client.get(f"/static/{path}").status_code == 404

    def test_a_missing_sandbox_is_shown_everywhere(
        self, page: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SANDBOX", "none")
        settings.cache_clear()
        for path in ("/jobs", f"/jobs/{world.ids['job']}", "/jobs/job_none", "/sign-in", "/keys"):
            assert "SANDBOX=none" in page.get(path).text
        settings.cache_clear()

    def test_the_theme_follows_the_cookie(self, page: TestClient) -> None:
        page.cookies.set("theme", "dark")
        assert 'data-theme="dark"' in page.get("/jobs").text
        page.cookies.set("theme", '"><script>')
        assert "data-theme" not in page.get("/jobs").text


def test_the_recipe_of_a_page_asks_for_the_same_job() -> None:
    shown = job(limits=Limits(minutes=5), webhook_url="https://example.com/hook")
    asked = JobCreate.model_validate(yaml.safe_load(recipe_text(shown)))
    assert asked == JobCreate.model_validate({name: getattr(shown, name) for name in JobCreate.model_fields})
    assert "memory_bytes" not in recipe_text(shown)


class TestWriting:
    @pytest.mark.parametrize(
        "path", ["/jobs/{job}/cancel", "/jobs/{job}/retry", "/models/{model}/delete", "/keys", "/jobs"]
    )
    def test_a_form_needs_the_token_of_the_session(self, page: TestClient, world: World, path: str) -> None:
        path = path.format(**world.ids)
        assert page.post(path, data={}).status_code == 403
        assert page.post(path, data={"csrf_token": "guess"}).status_code == 403
        answer = page.post(path, data={"csrf_token": csrf(page)}, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403

    @pytest.mark.parametrize(
        ("path", "scope"),
        [
            ("/jobs/{job}/cancel", "jobs:write"),
            ("/jobs/{job}/retry", "jobs:write"),
            ("/models", "models:write"),
            ("/models/{model}/delete", "models:write"),
            ("/datasets", "models:write"),
            ("/datasets/{dataset}/delete", "models:write"),
            ("/webhooks", "webhooks"),
            ("/webhooks/{webhook}/test", "webhooks"),
            ("/webhooks/{webhook}/rotate", "webhooks"),
            ("/webhooks/{webhook}/delete", "webhooks"),
            ("/webhooks/{webhook}/deliveries/{delivery}/redeliver", "webhooks"),
            ("/keys", "admin"),
            ("/keys/{key}/revoke", "admin"),
        ],
    )
    def test_a_form_needs_its_scope(
        self, client: TestClient, alice: User, world: World, path: str, scope: Scope
    ) -> None:
        client.headers.update(ORIGIN)
        enter(client, bearer(alice.tenant, "read"))
        answer = send(client, path.format(**world.ids))
        assert answer.status_code == 403
        assert scope in answer.text

    def test_queue_cancel_and_retry(self, page: TestClient, world: World, alice: User) -> None:
        fields = {
            "model": world.ids["model"],
            "dataset": world.ids["dataset"],
            "recipe.steps.0.calibration.samples": "64",
        }
        answer = send(page, "/jobs", **fields)
        assert answer.status_code == 303, answer.text
        path = answer.headers["location"]
        text = page.get(path).text
        assert "Next in the queue" in text
        assert f'hx-sse:connect="/v1{path}/events"' in text
        assert send(page, f"{path}/cancel").headers["location"] == path
        text = page.get(path).text
        assert "Cancelled" in text
        assert "hx-sse:connect" not in text
        again = send(page, f"{path}/retry").headers["location"]
        assert again != path
        with transaction() as session:
            job = jobs.get(session, alice.tenant, again.removeprefix("/jobs/"))
        assert job.retry_of == path.removeprefix("/jobs/")
        assert job.recipe.steps[0].calibration.samples == 64

    def test_a_form_that_is_sent_twice_queues_one_job(self, page: TestClient, world: World) -> None:
        fields = {"model": world.ids["model"], "dataset": world.ids["dataset"], "once": "a"}
        first = send(page, "/jobs", **fields).headers["location"]
        assert send(page, "/jobs", **fields).headers["location"] == first
        assert send(page, "/jobs", **(fields | {"once": "b"})).headers["location"] != first

    def test_what_is_wrong_is_said_at_its_field(self, page: TestClient, world: World) -> None:
        fields = {"model": world.ids["model"], "recipe.steps.0.calibration.samples": "many", "limits.minutes": "-1"}
        answer = send(page, "/jobs", **fields)
        assert answer.status_code == 422
        assert 'id="f-recipe-steps-0-calibration-samples-e"' in answer.text
        assert 'id="f-limits-minutes-e"' in answer.text
        assert 'value="many"' in answer.text

    def test_a_dry_run_plans_and_queues_nothing(self, page: TestClient, world: World) -> None:
        answer = send(page, "/jobs/new", model=world.ids["model"], dataset=world.ids["dataset"])
        assert answer.status_code == 200
        assert "quantize.linear" in answer.text
        assert "No job is queued" in page.get("/jobs?state=queued").text

    def test_an_objection_is_repaired_by_its_button(self, page: TestClient, world: World) -> None:
        fields = {
            "model": world.ids["model"],
            "dataset": world.ids["dataset"],
            "recipe.steps.0.keep_float": "no_such_layer",
        }
        first = send(page, "/jobs/new", **fields)
        assert "no_such_layer" in first.text
        found = re.search(r'name="repair" value="(\d+)"', first.text)
        assert found is not None
        mended = send(page, "/jobs/new", repair=found[1], **fields)
        assert 'name="recipe.steps.0.keep_float" value=""' in mended.text

    def test_a_model_is_made_of_an_upload(self, page: TestClient, world: World) -> None:
        answer = send(page, "/models", upload=world.ids["upload"], name="mine")
        assert answer.status_code == 303
        text = page.get(answer.headers["location"]).text
        assert "Inspecting" in text
        assert send(page, "/models", upload="upl_none").status_code == 422
        too_many = send(page, "/models", upload=",".join(["upl_none"] * 65))
        assert too_many.status_code == 422
        assert "64" in too_many.text

    def test_a_model_is_made_of_several_uploads(self, page: TestClient, world: World) -> None:
        with transaction() as session:
            tenant = session.get_one(ModelRow, world.ids["model"]).tenant_id
            names = ("config.json", "model.safetensors")
            ids = [uploads.record(session, tenant, name, "0" * 64, 1).id for name in names]
        answer = send(page, "/models", upload=",".join(ids))
        assert answer.status_code == 303
        with transaction() as session:
            row = session.get_one(ModelRow, answer.headers["location"].removeprefix("/models/"))
            assert [file["filename"] for file in row.files] == list(names)

    def test_a_data_set_is_made_of_an_upload(self, page: TestClient, world: World) -> None:
        fields = {
            "upload": world.ids["upload"],
            "task": "classification",
            "layout": "NHW",
            "scale": "0.5",
            "mean": "0.5",
            "std": "0.5",
        }
        splits = {"train.x": "x_train", "train.y": "y_train", "evaluation.x": "x_test", "evaluation.y": "y_test"}
        answer = send(page, "/datasets", **fields, **splits)
        assert answer.status_code == 303, answer.text
        assert "NHW" in page.get(answer.headers["location"]).text
        refused = send(page, "/datasets", **(fields | {"scale": "much"}), **splits)
        assert refused.status_code == 422
        assert "/inputs/x/scale" in refused.text

    def test_the_secret_of_a_webhook_is_shown_once(self, page: TestClient) -> None:
        answer = send(page, "/webhooks", url="https://93.184.215.14/hook", events="job.*")
        found = re.search(r"whsec_[A-Za-z0-9+/=]+", answer.text)
        assert found is not None
        assert found[0] not in page.get("/webhooks").text
        refused = send(page, "/webhooks", url="http://127.0.0.1/hook", events="job.*")
        assert refused.status_code == 422
        assert "invalid_webhook_url" in refused.text

    def test_test_rotate_redeliver_and_delete_a_webhook(self, page: TestClient, world: World) -> None:
        path = f"/webhooks/{world.ids['webhook']}"
        assert send(page, f"{path}/test").headers["location"] == path
        assert "whsec_" in send(page, f"{path}/rotate").text
        redeliver = f"{path}/deliveries/{world.ids['delivery']}/redeliver"
        assert send(page, redeliver, job=world.ids["job"]).headers["location"] == f"/jobs/{world.ids['job']}"
        assert send(page, redeliver, job="//evil.example").headers["location"] == path
        assert send(page, f"{path}/delete").headers["location"] == "/webhooks"
        assert page.get(path).status_code == 404

    def test_a_key_is_shown_once_works_and_ends(self, page: TestClient, client: TestClient) -> None:
        answer = send(page, "/keys", name="ci", scope=["read", "jobs:write"])
        found = re.search(r"mp_[0-9a-z]+_[0-9A-Za-z]+", answer.text)
        assert found is not None
        key = {"Authorization": f"Bearer {found[0]}"}
        assert client.get("/v1/jobs", headers=key).status_code == 200
        assert found[0] not in page.get("/keys").text
        identifier = "key_" + found[0].split("_")[1]
        assert send(page, f"/keys/{identifier}/revoke").status_code == 303
        assert client.get("/v1/jobs", headers=key).status_code == 401
        assert send(page, "/keys", name="", scope=["read"]).status_code == 422

    def test_a_running_job_says_what_is_left_of_its_step_and_of_itself(self, page: TestClient, world: World) -> None:
        said = {"fraction": 0.42, "eta_seconds": 90, "step_fraction": 0.6, "step_eta_seconds": 40}
        with transaction() as session:
            row = session.get_one(JobRow, world.ids["job"])
            row.state, row.lease_owner, row.lease_expires_at = JobState.RUNNING, "worker", datetime.now(UTC)
            row.progress = {"step": 0, "method": "quantize.linear", "message": "What fc1 costs alone", **said}
        text = page.get(f"/jobs/{world.ids['job']}").text
        assert "60 % of this step, about 40 s more" in text
        assert "42 %" in text

    def test_a_failed_job_says_where_and_what_to_do(self, page: TestClient, world: World) -> None:
        with transaction() as session:
            row = session.get_one(JobRow, world.ids["job"])
            row.state = JobState.FAILED
            row.error = {
                "code": "out_of_memory",
                "detail": "It needed 9 GB.",
                "hint": "Raise the limit.",
                "step": "measure",
                "retryable": False,
            }
        text = page.get(f"/jobs/{world.ids['job']}").text
        for words in ("The job ran out of memory", "It needed 9 GB.", "Raise the limit.", "measure", "out_of_memory"):
            assert words in text
