"""The walks of the issue in a real browser against a whole service: upload, start, watch live, download; and cancel."""

import os
import re
from pathlib import Path

import onnx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import Service

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

DEMO = Path(__file__).parents[2] / "demo"
JOB_MS = 180_000


def sign_in(page: Page, service: Service) -> None:
    page.goto(f"{service.url}/jobs")
    expect(page).to_have_url(re.compile(r"/sign-in\?next="))
    page.get_by_label("API key").fill(service.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()


def upload_model(page: Page, service: Service) -> str:
    """Upload the shipped network, wait until it is ready, and give the address of its page."""
    page.goto(f"{service.url}/models")
    page.get_by_label("Files", exact=True).set_input_files(DEMO / "lenet5.onnx")
    page.get_by_label("Name").fill("LeNet-5")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#state")).to_have_text("Ready", timeout=90_000)
    return page.url


def upload_dataset(page: Page, service: Service) -> None:
    page.goto(f"{service.url}/datasets")
    page.get_by_label("File", exact=True).set_input_files(DEMO / "mnist.npz")
    page.get_by_label("Name").fill("MNIST")
    page.get_by_label("Layout").select_option("NHW")
    page.get_by_label("Scale").fill("0.00392157")
    page.get_by_label("Mean").fill("0.5")
    page.get_by_label("Std").fill("0.5")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#state")).to_have_text("Ready", timeout=90_000)


def start_job(page: Page, service: Service, name: str) -> str:
    page.goto(f"{service.url}/jobs/new")
    page.get_by_label("Model", exact=True).select_option(index=0)
    page.get_by_label("Data set", exact=True).select_option(index=1)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Max drop").fill("0.02")
    expect(page.locator("#dry-run")).to_contain_text("prepare")
    page.get_by_role("button", name="Queue job").click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
    return page.url


def ready_for_jobs(page: Page, service: Service) -> None:
    """Sign in; upload model and data unless an earlier test of this session has."""
    sign_in(page, service)
    page.goto(f"{service.url}/datasets")
    if not page.get_by_role("link", name="MNIST").count():
        upload_model(page, service)
        upload_dataset(page, service)


def test_upload_start_watch_and_download(page: Page, service: Service, tmp_path: Path) -> None:
    ready_for_jobs(page, service)
    start_job(page, service, "LeNet-5 to int8")
    # The page is not reloaded from here on: all that changes comes by the stream.
    page.evaluate("document.body.dataset.kept = 'yes'")
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator("#state")).to_have_text("Running", timeout=30_000)
    expect(page.locator("#log-lines")).not_to_have_text(re.compile("Nothing yet"), timeout=60_000)
    expect(page.locator("#state")).to_have_text(re.compile("^Succeeded"), timeout=JOB_MS)
    expect(page.locator("#verdict h2")).to_have_text(re.compile("smaller"))
    assert page.evaluate("document.body.dataset.kept") == "yes"
    expect(page.locator("#stream")).to_have_count(0)
    expect(page.locator("#layers tbody tr")).to_have_count(4)
    expect(page.locator("#steps li.done")).to_have_count(4)
    # How docs/screenshot.png is made.
    if picture := os.environ.get("MODELPRESS_SCREENSHOT"):
        page.set_viewport_size({"width": 1440, "height": 1000})
        page.screenshot(path=picture)

    with page.expect_download() as download:
        page.get_by_role("link", name="Download model.onnx").first.click()
    kept = tmp_path / "model.onnx"
    download.value.save_as(kept)
    onnx.checker.check_model(str(kept))
    assert kept.stat().st_size < (DEMO / "lenet5.onnx").stat().st_size / 3
    page.goto(f"{service.url}/jobs")
    expect(page.locator("#jobs tbody tr").first).to_contain_text("smaller")


def test_cancel(page: Page, service: Service) -> None:
    ready_for_jobs(page, service)
    start_job(page, service, "to be cancelled")
    expect(page.locator("#state")).to_have_text("Running", timeout=60_000)
    page.get_by_role("button", name="Cancel job").first.click()
    question = page.locator("#ask-cancel")
    expect(question).to_be_visible()
    question.get_by_role("button", name="Cancel job").click()
    expect(page.locator("#state")).to_have_text("Cancelled", timeout=30_000)
    expect(page.locator("#job")).to_contain_text("nothing was kept")
    expect(page.get_by_role("link", name=re.compile("^Download"))).to_have_count(0)


def test_a_link_signs_in(page: Page, service: Service) -> None:
    page.goto(service.sign_in_url)
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_hostile_file_is_rejected_on_its_page(page: Page, service: Service, tmp_path: Path) -> None:
    sign_in(page, service)
    broken = tmp_path / "broken <b>net.onnx"
    broken.write_bytes(b"\x80\x04not a network")
    page.goto(f"{service.url}/models")
    page.get_by_label("Files", exact=True).set_input_files(broken)
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#state")).to_have_text("Rejected", timeout=60_000)
    expect(page.get_by_role("alert")).to_contain_text("This file was rejected")
    expect(page.get_by_role("heading", level=1)).to_contain_text("broken <b>net")


def test_several_files_and_folders_are_one_upload(page: Page, service: Service, tmp_path: Path) -> None:
    sign_in(page, service)
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    for name in ("pytorch_model.bin", "model-00001-of-00002.safetensors", "notes.md"):
        (folder / name).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    sent = []
    page.on("request", lambda request: sent.append(request.url.rpartition("=")[2]) if "/uploads?" in request.url else 0)
    for label, what in (
        ("Files", [folder / "config.json", folder / "model-00001-of-00002.safetensors"]),
        ("Or a folder", folder),
    ):
        page.goto(f"{service.url}/models")
        page.get_by_label(label, exact=True).set_input_files(what)
        page.get_by_role("button", name="Upload").click()
        expect(page.locator("#state")).to_have_text("Rejected", timeout=60_000)
        expect(page.get_by_role("alert")).to_contain_text("model-00002-of-00002.safetensors")
        assert sorted(sent) == ["config.json", "model-00001-of-00002.safetensors"]
        sent.clear()


def test_the_theme_is_kept(page: Page, service: Service) -> None:
    sign_in(page, service)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


@pytest.mark.parametrize("context", [390, 1440], indirect=True)
def test_no_page_is_wider_than_the_screen(page: Page, service: Service, context: BrowserContext) -> None:
    sign_in(page, service)
    width = page.viewport_size["width"] if page.viewport_size else 0
    paths = ["/jobs", "/jobs/new", "/models", "/datasets", "/datasets/guide", "/webhooks", "/keys"]
    for listed in ("/jobs", "/models", "/datasets"):
        page.goto(f"{service.url}{listed}")
        links = page.locator("main table a").evaluate_all("links => links.map(link => link.pathname)")
        paths += [path for path in links if path.startswith(listed)][:2]
    for path in paths:
        page.goto(f"{service.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_pages_are_whole_without_a_script(browser: object, service: Service, page: Page) -> None:
    ready_for_jobs(page, service)
    quiet = page.context.browser.new_context(java_script_enabled=False) if page.context.browser else None
    assert quiet is not None
    quiet.add_cookies(page.context.cookies())
    silent = quiet.new_page()
    silent.goto(f"{service.url}/jobs/new")
    silent.get_by_role("button", name="Check").click()
    expect(silent.locator("#dry-run")).to_contain_text("prepare")
    silent.get_by_role("button", name="Queue job").click()
    expect(silent.locator("#state")).to_have_text(re.compile("Queued|Running"))
    silent.get_by_role("button", name="Cancel job").first.click()
    silent.locator("#ask-cancel").get_by_role("button", name="Cancel job").click()
    expect(silent).to_have_url(re.compile(r"/jobs/job_"))
    quiet.close()
