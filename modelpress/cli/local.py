"""`modelpress up` and `modelpress demo`: a whole service on this machine."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.stack import Options
from launch.supervisor import Supervisor
from modelpress.cli.credentials import Login, default_home, read_login, save_login
from modelpress.cli.demo import run_demo
from modelpress.cli.output import JsonFlag, say, show_json, wants_json
from modelpress.client import Client
from modelpress.connection import ApiError
from modelpress.receiver import Receiver


def up(
    *,
    home: Annotated[
        Path | None, typer.Option(help="Where everything is kept; else MODELPRESS_HOME, else .modelpress here.")
    ] = None,
    port: Annotated[int, typer.Option(help="The port to listen on; another one when it is taken.")] = 8000,
    _json: JsonFlag = False,
) -> None:
    """Start a whole service on this machine and print a one-time sign-in link.

    PostgreSQL and Valkey are started too, unless DATABASE_URL and REDIS_URL name some.
    """
    folder = home or default_home()
    with Supervisor(Options(folder, port)) as stack:
        sign_in_url, login = start(stack)
        if wants_json():
            show_json({"url": stack.url, "sign_in_url": sign_in_url, "login": str(folder / "login.json")})
        say(f"Modelpress runs at {login.url}", "bold green")
        say(f"  sign in, once:   {sign_in_url}")
        say(f"  command line:    its key is in {folder / 'login.json'}, used by commands in this folder")
        say(f"  data and logs:   {folder}")
        _warn_of_no_sandbox()
        say("Ctrl-C stops it.")
        sys.stdout.flush()
        stack.watch()
        say("Stopping.")


def demo(
    *,
    home: Annotated[Path, typer.Option(help="Where the demo keeps everything.")] = Path(".demo"),
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Keep the service up afterwards; on a terminal it stays.")
    ] = None,
) -> None:
    """Make a shipped network smaller and prove it: upload, int8 job, verdict, signed webhook, download."""
    allow = {"MODELPRESS_WEBHOOK_ALLOW": '["127.0.0.0/8"]'}
    with Receiver() as receiver, Supervisor(Options(home, extra=allow)) as stack:
        say("Starting PostgreSQL, Valkey, the API, two workers and the dispatcher …")
        sign_in_url, login = start(stack)
        with Client(login.url, login.key) as client:
            job = run_demo(client, receiver, home.absolute() / "artifacts")
        _warn_of_no_sandbox()
        if sys.stdin.isatty() if stay is None else stay:
            say(f"\nSign in, once:  {sign_in_url}", "bold")
            say(f"Then open:      {stack.url}/jobs/{job.id}", "bold")
            say("Ctrl-C stops the service.")
            sys.stdout.flush()
            stack.watch()
        else:
            say(
                f"\nTo see it: `modelpress up --home {home}`, sign in by the link it prints, open /jobs/{job.id}",
                "bold",
            )


def start(stack: Supervisor) -> tuple[str, Login]:
    """Start the stack; gives the sign-in link, and a login that is kept in the home folder and used again."""
    file = stack.home / "login.json"
    known = read_login(file)
    prepared = stack.start(key_name=None if known else "this machine")
    key = prepared.key or (known.key if known else "")
    with Client(stack.url, key) as client:
        try:
            client.system()
        except ApiError as error:
            if error.problem.status != 401:
                raise
            # The key is of a database that is gone.
            key = stack.prepare("this machine").key or ""
    login = Login(stack.url, key)
    save_login(login, file)
    return prepared.sign_in_url, login


def _warn_of_no_sandbox() -> None:
    if os.environ.get("SANDBOX") == "none":
        say("SANDBOX=none: uploaded files are opened without a sandbox. Do not take files from others.", "bold red")
