"""What a terminal shows: resources as tables or as JSON, errors as a sentence, a hint and a code."""

import json
import sys
from typing import Annotated, Final

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from core.resources.shape import Failure, Problem

# A file has no width; a table in it should not break its lines for that.
_LOG_WIDTH = 110
# Names and sentences come from users: nothing in them is markup.
console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
error_console = Console(stderr=True, markup=False, highlight=False, emoji=False)

# Exit codes; docs/cli.md names them.
REFUSED: Final = 1
USAGE: Final = 2
ENDED_BADLY: Final = 3
NOT_SATISFIED: Final = 4
UNREACHABLE: Final = 5

_wanted = {"json": False}


def _want_json(wanted: bool) -> bool:
    _wanted["json"] = wanted
    return wanted


JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of text; errors too.", callback=_want_json, is_eager=True)
]


def wants_json() -> bool:
    """Whether this command was asked for JSON."""
    return _wanted["json"]


def show_json(shown: BaseModel | dict[str, object]) -> None:
    """Print a resource as the API would show it."""
    plain = shown.model_dump(mode="json") if isinstance(shown, BaseModel) else shown
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def say(sentence: str, style: str = "") -> None:
    """Print a sentence for people; silent when JSON was asked for."""
    if not wants_json():
        console.print(Text(sentence, style=style), soft_wrap=True)


def complain(code: str, detail: str, *, hint: str | None = None, where: str | None = None) -> None:
    """Print why something went wrong, what to do, and the stable code."""
    if wants_json():
        sys.stderr.write(json.dumps({"code": code, "detail": detail, "hint": hint, "where": where}) + "\n")
        return
    error_console.print(Text("Error: ", style="bold red") + Text(detail), soft_wrap=True)
    if where:
        error_console.print(Text(f"  at    {where}", style="dim"), soft_wrap=True)
    if hint:
        error_console.print(Text(f"  hint  {hint}"), soft_wrap=True)
    error_console.print(Text(f"  code  {code}", style="dim"))


def complain_problem(problem: Problem) -> None:
    """Print what the API answered."""
    complain(problem.code, problem.detail, hint=problem.hint, where=problem.pointer)


def complain_failure(failure: Failure) -> None:
    """Print why a model, data set or job ended badly."""
    where = ", ".join(
        f"{name} {value}"
        for name, value in (("node", failure.node), ("layer", failure.layer), ("step", failure.step))
        if value
    )
    complain(failure.code, failure.detail, hint=failure.hint, where=where or None)
