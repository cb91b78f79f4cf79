"""`modelpress methods`, `keys` and `login`: the service itself."""

from pathlib import Path
from typing import Annotated, get_args

import typer
import yaml
from rich.table import Table

from core.resources.system import Key, KeyCreate, Method, Scope
from modelpress.cli.credentials import DEFAULT_URL, Login, connect, login_file, save_login
from modelpress.cli.dataset_options import checked
from modelpress.cli.output import ENDED_BADLY, JsonFlag, complain, console, say, show_json, wants_json
from modelpress.client import Client

keys_app = typer.Typer(help="List, make and revoke API keys.", invoke_without_command=True)


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, such as quantize.linear.")] = None,
    _json: JsonFlag = False,
) -> None:
    """List the methods, or print one with its settings and an example."""
    with connect() as client:
        found = client.methods()
    if name is None:
        if wants_json():
            show_json(found)
        for method in found.data:
            say(f"{method.name:24} {method.title}: {method.summary}")
        return
    for method in found.data:
        if method.name == name:
            _show_method(method)
            return
    complain("not_found", f"There is no method {name}; there are {', '.join(each.name for each in found.data)}.")
    raise typer.Exit(ENDED_BADLY)


def _show_method(method: Method) -> None:
    if wants_json():
        show_json(method)
        return
    say(f"{method.name}: {method.title}", "bold")
    say(method.summary)
    say(f"Needs {method.needs.words()}.")
    say("\nSettings and their defaults:")
    say(yaml.safe_dump(method.defaults, sort_keys=False).rstrip())
    say("\nA recipe:")
    say(yaml.safe_dump({"recipe": {"version": 1, "steps": [method.example]}}, sort_keys=False).rstrip())


@keys_app.callback(invoke_without_command=True)
def list_keys(context: typer.Context, _json: JsonFlag = False) -> None:
    """List, make and revoke API keys."""
    if context.invoked_subcommand:
        return
    with connect() as client:
        page = client.keys()
    if wants_json():
        show_json(page)
        return
    table = Table("id", "name", "scopes", "last used", "state")
    for key in page.data:
        table.add_row(key.id, key.name, " ".join(key.scopes), _day(key), "revoked" if key.revoked_at else "valid")
    console.print(table)


def _day(key: Key) -> str:
    return f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    *,
    scope: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable: {', '.join(get_args(Scope))}; all but admin without it.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Make a key; its secret is shown this once."""
    body = {"name": name, **({"scopes": scope} if scope else {})}
    with connect() as client:
        key = client.create_key(checked(KeyCreate, body, "the options"))
    if wants_json():
        show_json(key)
    say(f"{key.id}  {key.name}: {', '.join(key.scopes)}")
    say(key.token, "bold")
    say("The secret is not shown again.")


@keys_app.command("revoke")
def revoke_key(identifier: Annotated[str, typer.Argument(help="key_…")], _json: JsonFlag = False) -> None:
    """End a key at once."""
    with connect() as client:
        client.revoke_key(identifier)
    if wants_json():
        show_json({"id": identifier, "revoked": True})
    say(f"{identifier} is revoked.")


def login(
    *,
    url: Annotated[str, typer.Option(envvar="MODELPRESS_URL", help="The address of the service.")] = DEFAULT_URL,
    key: Annotated[
        str,
        typer.Option(envvar="MODELPRESS_KEY", prompt=True, hide_input=True, help="An API key; asked for if absent."),
    ],
    _json: JsonFlag = False,
) -> None:
    """Keep address and key for later commands, after trying them."""
    with Client(url, key) as client:
        version = client.system().version
    file: Path = login_file()
    save_login(Login(url, key), file)
    if wants_json():
        show_json({"url": url, "version": version, "file": str(file)})
    say(f"Logged in to Modelpress {version} at {url}; kept in {file}.")
