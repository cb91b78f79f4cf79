"""A Chromium for the browser tests: one that is here, Debian's package, or Playwright's own download."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
_DEBIAN = (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])


def find_browser() -> str | None:
    """A browser that starts: `MODELPRESS_TEST_BROWSER`, one on the PATH, or one that Playwright has downloaded."""
    named = [os.environ.get("MODELPRESS_TEST_BROWSER"), *map(shutil.which, _NAMES), _MAC, _playwright_path()]
    return next((path for path in named if path and _starts(path)), None)


def get_browser() -> str | None:
    """Find a browser, or get one; None where none can be had."""
    if found := find_browser():
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _say("There is no browser; installing Debian's chromium for the browser tests …")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in _DEBIAN:
            subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
        if found := find_browser():
            return found
    _say("There is no browser; letting Playwright download its Chromium for the browser tests …")
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    return find_browser()


def _playwright_path() -> str | None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  (starting it takes half a second)

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _starts(path: str) -> bool:
    """Whether the program runs: on some systems the name is only a hint where to get it."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()
