"""Following a job in the terminal, live."""

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from core.resources.job import Job, StreamEvent
from modelpress.cli.output import error_console
from modelpress.client import Client


def watch_job(client: Client, job: Job) -> Job:
    """Show the job's progress on standard error until it ends; gives the job as it is then."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    # On a terminal the bar moves; in a log only the lines of the steps are left.
    with Progress(*columns, console=error_console, transient=True, disable=not error_console.is_terminal) as bar:
        task = bar.add_task("queued", total=1.0)
        for event in client.follow(job.id):
            if event.type == "job.progress":
                progress = _progress(event)
                bar.update(task, completed=progress[0], description=progress[1])
            elif event.type == "job.state":
                bar.console.print(f"{job.id} is {event.payload.get('state')}")
    return client.job(job.id)


def _progress(event: StreamEvent) -> tuple[float, str]:
    fraction, method = event.payload.get("fraction"), event.payload.get("method")
    message = event.payload.get("message")
    return (
        float(fraction) if isinstance(fraction, int | float) else 0.0,
        " ".join(str(part) for part in (method, message) if part),
    )
