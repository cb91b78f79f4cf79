"""Following a job in the terminal, live."""

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from core.messages import ProgressMessage, StepMessage
from core.resources.job import Job, StreamEvent
from core.states import StepState
from modelpress.cli.numbers import duration
from modelpress.cli.output import error_console
from modelpress.client import Client

_COLUMNS = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())


def watch_job(client: Client, job: Job) -> Job:
    """Show the job's steps and progress on standard error until it ends; gives the job as it is then."""
    state = ""
    # On a terminal a bar moves below; in a log only the lines of states and steps are left.
    with Progress(*_COLUMNS, console=error_console, transient=True, disable=not error_console.is_terminal) as bar:
        task = bar.add_task("queued", total=1.0)
        for event in client.follow(job.id):
            if event.type == "job.progress":
                progress = ProgressMessage.model_validate(event.payload | {"kind": "progress"})
                bar.update(task, completed=progress.fraction, description=_describe(progress))
            elif event.type == "job.state":
                line = _step_line(event) or (f"{job.id} is {event.payload['state']}")
                if line != state:
                    bar.console.print(Text(line))
                state = line
    return client.job(job.id)


def _describe(progress: ProgressMessage) -> str:
    left = f", about {duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    return f"{progress.method} {progress.message}{left}"


def _step_line(event: StreamEvent) -> str | None:
    """What a step's change of state is worth saying; None when the event is about the job itself."""
    said = event.payload.get("step")
    if not isinstance(said, dict):
        return None
    step = StepMessage.model_validate(said | {"kind": "step"})
    if step.state == StepState.RUNNING:
        return f"  {step.name} …"
    seconds = f" in {step.seconds:.1f} s" if step.seconds is not None else ""
    return f"  {step.name} {step.state}{seconds}{': ' + step.message if step.message else ''}"
