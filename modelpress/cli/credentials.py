"""Which service the command line talks to, and with which key."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from modelpress.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"


class NoKeyError(Exception):
    """No key is known for the service."""


@dataclass(frozen=True)
class Login:
    """An address and a key."""

    url: str
    key: str


def default_home() -> Path:
    """Where `modelpress up` keeps everything: `MODELPRESS_HOME`, else `.modelpress` in the working folder."""
    return Path(os.environ.get("MODELPRESS_HOME") or ".modelpress")


def login_file() -> Path:
    """Where `modelpress login` writes."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "modelpress" / "login.json"


def find_login() -> Login:
    """From the environment, else from `modelpress login`, else from a `modelpress up` here; raises `NoKeyError`."""
    url, key = os.environ.get("MODELPRESS_URL"), os.environ.get("MODELPRESS_KEY")
    if key:
        return Login(url or DEFAULT_URL, key)
    for file in (login_file(), default_home() / "login.json"):
        saved = read_login(file)
        if saved and url in {None, saved.url}:
            return saved
    raise NoKeyError("No key is known. Run `modelpress login`, or set MODELPRESS_URL and MODELPRESS_KEY.")


def read_login(file: Path) -> Login | None:
    """What was saved, None when nothing was."""
    try:
        saved = json.loads(file.read_text())
        return Login(url=saved["url"], key=saved["key"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def save_login(login: Login, file: Path) -> None:
    """Keep a login where only its owner can read it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A temporary file is made with mode 600, so the key is at no time readable to others.
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as fresh:
        json.dump(asdict(login), fresh)
    Path(fresh.name).replace(file)


def connect() -> Client:
    """A client for the service that is logged in to."""
    login = find_login()
    return Client(login.url, login.key)
