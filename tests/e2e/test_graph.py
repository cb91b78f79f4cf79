"""A model's graph, drawn by netron in a real browser, which asks no other host for anything."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Page, expect

from core.database.session import transaction
from core.resources.model import ModelCreate
from core.services import models, uploads
from tests.api.conftest import User
from tests.api.world import store
from tests.e2e.test_live import aside

pytestmark = [pytest.mark.browser, pytest.mark.servers]

DEMO = Path(__file__).parents[2] / "demo"


@pytest.mark.parametrize("file", ["lenet5.onnx", "lenet5.pt2"])
def test_the_graph_is_drawn(page: Page, live: httpx2.Client, alice: User, file: str) -> None:
    content = (DEMO / file).read_bytes()
    sha256 = aside(store, content)
    with transaction() as session:
        upload = uploads.record(session, alice.tenant, file, sha256, len(content)).id
        model = models.create(session, alice.tenant, ModelCreate(uploads=(upload,))).id
    hosts = set()
    page.on("request", lambda asked: hosts.add(urlsplit(asked.url).netloc))
    page.goto(f"{live.base_url}/netron/{model}")
    page.get_by_label("API key").fill(alice.headers["Authorization"].removeprefix("Bearer "))
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".node").filter(has_text="onv").first).to_be_visible()
    assert hosts <= {urlsplit(str(live.base_url)).netloc, ""}
