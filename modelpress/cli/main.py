"""The command `modelpress`."""

import sys

import typer

from core.errors import ModelpressError
from launch.process import LaunchError
from modelpress.cli import jobs, local, output, service
from modelpress.cli.credentials import NoKeyError
from modelpress.cli.export import export
from modelpress.cli.upload import upload
from modelpress.connection import ApiError, UnreachableError
from modelpress.download import WrongBytesError

app = typer.Typer(
    name="modelpress",
    help="Makes trained neural networks smaller and faster, and proves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (local.up, local.demo, export, upload, jobs.run, jobs.verdict, jobs.get, jobs.cancel, service.methods):
    app.command()(command)
app.add_typer(service.keys_app, name="keys")
app.command()(service.login)


def main() -> None:
    """Run the command line; errors become a sentence, a hint and an exit code."""
    try:
        app()
    except ApiError as error:
        output.complain_problem(error.problem)
        sys.exit(output.REFUSED)
    except ModelpressError as error:
        output.complain(error.code, error.detail, hint=error.hint)
        sys.exit(output.REFUSED)
    except UnreachableError as error:
        output.complain("unreachable", str(error), hint="Is the service up? `modelpress up` starts one here.")
        sys.exit(output.UNREACHABLE)
    except NoKeyError as error:
        output.complain("no_key", str(error))
        sys.exit(output.USAGE)
    except (LaunchError, WrongBytesError) as error:
        output.complain("failed", str(error))
        sys.exit(output.REFUSED)
