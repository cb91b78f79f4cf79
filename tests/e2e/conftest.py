"""A whole service and a real Chromium. What the browser complains of, refused scripts and styles included, fails."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from launch.stack import Options
from launch.supervisor import Supervisor
from tests.api import conftest as api_tests

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


# Long enough for a machine that does much else; nothing here asserts how fast it is.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


@dataclass(frozen=True)
class Service:
    """A running service, and the first sign-in link that it printed."""

    supervisor: Supervisor
    sign_in_url: str
    key: str

    @property
    def url(self) -> str:
        return self.supervisor.url


def find_browser(playwright: Playwright) -> str | None:
    """The path of a Chromium or Chrome: MODELPRESS_TEST_BROWSER, one on the path, else Playwright's own."""
    candidates = [
        os.environ.get("MODELPRESS_TEST_BROWSER"),
        *map(shutil.which, NAMES),
        playwright.chromium.executable_path,
    ]
    return next((found for found in candidates if found and Path(found).exists()), None)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Embedded servers, API, two workers and dispatcher, as `modelpress up` starts them."""
    home = tmp_path_factory.mktemp("service")
    with Supervisor(Options(home=home, port=None, durable=False)) as supervisor:
        prepared = supervisor.start(key_name="browser tests")
        assert prepared.key is not None
        yield Service(supervisor, prepared.sign_in_url, prepared.key)


# Playwright keeps an event loop in this thread, which would make `asyncio.run` fail in the tests of other modules.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    with sync_playwright() as playwright:
        path = find_browser(playwright)
        if path is None:
            pytest.fail("No Chromium or Chrome was found: apt-get install chromium, or playwright install chromium.")
        opened = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=[1440], ids=lambda width: f"{width}px")
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": request.param, "height": 900}, accept_downloads=True)
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained of; a test that provokes a complaint clears the list."""
    return []


@pytest.fixture
def page(context: BrowserContext, complaints: list[str]) -> Iterator[Page]:
    opened = context.new_page()
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    assert complaints == []


# The API alone on a real socket, for tests that play the worker themselves.
live = api_tests.live
alice = api_tests.alice
