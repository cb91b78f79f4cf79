"""One job's page while a worker, played by the test through the real services, works on it."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect

from core.database.session import transaction
from core.database.tables import StepRow
from core.messages import LogMessage, ProgressMessage, StepMessage
from core.resources.job import JobCreate
from core.resources.model import Rename
from core.resources.shape import Failure
from core.services import attempts, jobs
from core.services.attempts import StagedArtifact, StagedArtifactFile
from core.services.leases import Lease
from core.specs.linear import LinearQuantization
from core.specs.recipe import Recipe
from core.states import StepState
from tests.api.conftest import User
from tests.api.dashboard.samples import verdict
from tests.api.world import CONTENT, build_world, store

pytestmark = [pytest.mark.browser, pytest.mark.servers]

# Rounding has samples, too.
SAMPLES = "[name='recipe.steps.0.calibration.samples']"


def aside(work: Callable[..., Any], *arguments: object) -> Any:
    """Call what runs an event loop of its own; that of Playwright occupies this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def new_job(user: User) -> str:
    ids = aside(build_world, user.tenant).ids
    asked = JobCreate(model=ids["model"], dataset=ids["dataset"], recipe=Recipe(steps=(LinearQuantization(),)))
    with transaction() as session:
        return jobs.create(session, user.tenant, asked).id


def without_polling(route: Route) -> None:
    """Answer what the page asks now and then with nothing, so that only the stream can change it."""
    if "#poll" in route.request.headers.get("hx-source", ""):
        route.fulfill(status=204)
    else:
        route.continue_()


def open_job(page: Page, live: httpx2.Client, user: User, job: str) -> None:
    page.route("**/jobs/job_*", without_polling)
    page.goto(f"{live.base_url}/jobs/{job}")
    page.get_by_label("API key").fill(user.headers["Authorization"].removeprefix("Bearer "))
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#live")).to_have_text("Live")
    page.evaluate("document.body.dataset.kept = 'yes'")


def claim() -> Lease:
    with transaction() as session:
        claimed = attempts.claim(session, "played")
        assert claimed is not None
        return claimed.lease


def tell(lease: Lease, fraction: float, text: str) -> None:
    with transaction() as session:
        attempts.record_progress(
            session,
            lease,
            ProgressMessage(step=1, method="quantize.linear", fraction=fraction, eta_seconds=9, message="x"),
        )
        attempts.record_logs(session, lease, [LogMessage(step="quantize.linear", text=text)])


def finish(lease: Lease) -> None:
    sha256 = aside(store, CONTENT)
    kept = StagedArtifact("model.onnx", (StagedArtifactFile("model.onnx", sha256, len(CONTENT)),))
    with transaction() as session:
        steps = session.query(StepRow).filter(StepRow.job_id == lease.id).order_by(StepRow.position).all()
        for step in steps:
            message = StepMessage(position=step.position, name=step.name, state=StepState.SUCCEEDED, seconds=1.5)
            attempts.record_step(session, lease, message)
        attempts.finish(session, lease, verdict(), [kept])


def test_the_page_follows_a_job_to_its_verdict(page: Page, live: httpx2.Client, alice: User) -> None:
    job = new_job(alice)
    open_job(page, live, alice, job)
    expect(page.locator("#state")).to_have_text("Queued")
    expect(page.locator("#progress")).to_contain_text("Next in the queue")
    lease = claim()
    expect(page.locator("#state")).to_have_text("Running")
    # Many events at once become a few requests, and the last of them is shown.
    for percent in range(1, 43):
        tell(lease, percent / 100, f"line <b>{percent}</b>")
    expect(page.locator("#progress progress")).to_have_attribute("value", "42")
    expect(page.locator("#log-lines")).to_contain_text("line <b>42</b>")
    assert page.locator("#log-lines").evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight < 24")
    finish(lease)
    expect(page.locator("#state")).to_have_text("Succeeded")
    expect(page.locator("#verdict h2")).to_contain_text("3.8× smaller")
    expect(page.locator("#stream")).to_have_count(0)
    expect(page.locator("#say")).to_have_text("Succeeded")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download model.onnx").first.click()
    assert download.value.path().read_bytes() == CONTENT
    assert page.evaluate("document.body.dataset.kept") == "yes"


def test_a_question_stays_open_while_the_page_changes(page: Page, live: httpx2.Client, alice: User) -> None:
    job = new_job(alice)
    open_job(page, live, alice, job)
    lease = claim()
    page.get_by_role("button", name="Cancel job").first.click()
    question = page.locator("#ask-cancel")
    expect(question).to_be_visible()
    tell(lease, 0.5, "still here")
    expect(page.locator("#log-lines")).to_contain_text("still here")
    expect(question).to_be_visible()
    question.get_by_role("button", name="Cancel job").click()
    expect(page.get_by_role("button", name="Cancelling")).to_be_visible()
    with transaction() as session:
        attempts.cancelled(session, lease)
    expect(page.locator("#state")).to_have_text("Cancelled")


def test_a_failure_says_where_and_what_to_do(page: Page, live: httpx2.Client, alice: User) -> None:
    job = new_job(alice)
    open_job(page, live, alice, job)
    failure = Failure(code="unsupported_layer", detail="fc has 2 outputs.", hint="Leave it out.", layer="fc<i>")
    lease = claim()
    with transaction() as session:
        attempts.fail(session, lease, failure)
    note = page.get_by_role("alert")
    expect(note).to_contain_text("fc has 2 outputs.")
    expect(note).to_contain_text("fc<i>")
    page.get_by_role("button", name="Retry unchanged").click()
    expect(page.locator("#state")).to_have_text("Queued")
    expect(page).not_to_have_url(re.compile(job))


def test_the_list_follows_its_jobs(page: Page, live: httpx2.Client, alice: User) -> None:
    job = new_job(alice)
    with transaction() as session:
        jobs.rename(session, alice.tenant, job, Rename(name="<i>mine</i>"))
    open_job(page, live, alice, job)
    page.goto(f"{live.base_url}/jobs")
    row = page.locator(f"#{job}")
    expect(row).to_contain_text("<i>mine</i>")
    lease = claim()
    tell(lease, 0.3, "x")
    expect(row.locator("progress")).to_have_attribute("value", "30")
    finish(lease)
    expect(row).to_contain_text("3.83× smaller")


def test_the_dry_run_answers_while_the_form_is_filled(page: Page, live: httpx2.Client, alice: User) -> None:
    open_job(page, live, alice, new_job(alice))
    page.goto(f"{live.base_url}/jobs/new")
    page.get_by_label("Keep float").fill("no_such_layer")
    expect(page.locator("#dry-run")).to_contain_text("no_such_layer")
    page.get_by_role("button", name="Repair").click()
    expect(page.get_by_label("Keep float")).to_have_value("")
    expect(page.locator("#dry-run")).not_to_contain_text("no_such_layer")
    page.wait_for_load_state()
    page.locator(SAMPLES).fill("many")
    expect(page.locator("#dry-run")).to_contain_text("recipe.steps.0.calibration.samples")


def test_another_method_brings_its_own_settings(page: Page, live: httpx2.Client, alice: User) -> None:
    open_job(page, live, alice, new_job(alice))
    page.goto(f"{live.base_url}/jobs/new")
    page.locator(SAMPLES).fill("77")
    page.get_by_label("What is done").select_option("quantize.onnx")
    expect(page.locator("#step h2")).to_have_text("quantize.onnx")
    expect(page.locator(SAMPLES)).to_have_value("128")
    expect(page.locator("#dry-run")).to_contain_text("quantize.onnx")
    page.get_by_label("Mode", exact=True).select_option("dynamic")
    page.get_by_label("Types").select_option("s8s8")
    expect(page.locator("#dry-run")).to_contain_text("unsigned")
    page.get_by_label("Types").select_option("u8u8")
    expect(page.locator("#dry-run")).not_to_contain_text("unsigned")
    page.get_by_role("button", name="Queue job").click()
    expect(page.locator("#state")).to_have_text("Queued")
    expect(page.get_by_role("heading", level=1)).to_contain_text("quantize.onnx")
