"""`modelpress run`, `verdict`, `get` and `cancel`: a job from its recipe to its files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from core.resources.job import DryRun, Job, JobCreate
from core.states import TERMINAL, JobState
from modelpress.cli.credentials import connect
from modelpress.cli.dataset_options import checked, read_yaml
from modelpress.cli.numbers import size
from modelpress.cli.output import (
    ENDED_BADLY,
    NOT_SATISFIED,
    JsonFlag,
    complain,
    complain_failure,
    say,
    show_json,
    wants_json,
)
from modelpress.cli.verdicts import show_verdict
from modelpress.cli.watch import watch_job
from modelpress.client import Client

JobId = Annotated[str, typer.Argument(help="The id of a job, job_….")]


def run(  # noqa: PLR0913  (every parameter is an option of the command line)
    recipe: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, help="YAML or JSON: a recipe, or the body of POST /v1/jobs; options win."
        ),
    ] = None,
    *,
    plan: Annotated[
        str | None,
        typer.Option(help="The id of a plan.json, art_…: without a recipe its job is done again, to the same bytes."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The id of a model, mdl_….")] = None,
    dataset: Annotated[str | None, typer.Option(help="The id of a data set, dst_….")] = None,
    name: Annotated[str | None, typer.Option(help="A name for the job.")] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of everything random.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Largest drop of quality; 0.01 is one point.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Largest file, in bytes.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Longest wall time.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="What it is measured in: onnxruntime-cpu, openvino-cpu, or auto for the fastest.")
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="An address that is told about this job.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job, then print its verdict.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Run a recipe on a model."""
    flags = {"model": model, "dataset": dataset, "name": name, "seed": seed, "webhook_url": webhook_url, "plan": plan}
    with connect() as client:
        body = _read_body(client, recipe, plan)
        body.update({key: value for key, value in flags.items() if value is not None})
        _put_below(body, "constraints", {"max_drop": max_drop, "max_bytes": max_bytes})
        _put_below(body, "limits", {"minutes": minutes})
        _put_below(body, "target", {"runtime": runtime})
        asked = checked(JobCreate, body, str(recipe or plan))
        if dry_run:
            _show_plan(client.plan_job(asked))
            return
        job = client.create_job(asked)
        say(f"{job.id}  {job.name} is queued; {client.url}/jobs/{job.id}")
        if watch:
            _show_end(watch_job(client, job))
        elif wants_json():
            show_json(job)


def verdict(identifier: JobId, _json: JsonFlag = False) -> None:
    """Print the verdict of a job: original and result, measured on the files themselves."""
    with connect() as client:
        job = client.job(identifier)
    _show_end(job)


def get(
    identifier: JobId,
    *,
    to: Annotated[Path, typer.Option(file_okay=False, help="The folder to write into.")] = Path(),
    kind: Annotated[
        list[str] | None, typer.Option(help="Only these kinds, repeatable: model.onnx, report.json.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Fetch what a job made; every file is checked against its SHA-256."""
    with connect() as client:
        job = client.job(identifier)
        wanted = [artifact for artifact in job.artifacts if not kind or artifact.kind in kind]
        if not wanted:
            made = ", ".join(artifact.kind for artifact in job.artifacts) or "nothing"
            complain("not_found", f"The job {job.id} ({job.state}) made {made}.")
            raise typer.Exit(ENDED_BADLY)
        files = [file for artifact in wanted for file in client.download(artifact, to)]
    if wants_json():
        show_json({"files": [str(file) for file in files]})
    for file in files:
        say(f"{file}  {size(file.stat().st_size)}")


def cancel(identifier: JobId, _json: JsonFlag = False) -> None:
    """Stop a job and keep nothing of it."""
    with connect() as client:
        job = client.cancel(identifier)
    if wants_json():
        show_json(job)
    say(f"{job.id} is {job.state}" if job.state in TERMINAL else f"{job.id} is being cancelled")


def _read_body(client: Client, recipe: Path | None, plan: str | None) -> dict[str, Any]:
    """The body of a job from a file, or from the job that a plan belongs to."""
    if recipe is not None:
        read = read_yaml(recipe)
        # A recipe alone, as `recipe.json` of a finished job is, does as well as the body of a job.
        return {"recipe": read} if "steps" in read else read
    if plan is None:
        raise typer.BadParameter("Give a recipe, or --plan.")
    planned = client.job(client.artifact(plan).job)
    kept = ("model", "dataset", "seed", "recipe", "target", "constraints", "limits")
    return planned.model_dump(mode="json", include=set(kept))


def _put_below(body: dict[str, Any], key: str, flags: dict[str, float | int | str | None]) -> None:
    given = {name: value for name, value in flags.items() if value is not None}
    if given:
        body[key] = {**(body.get(key) or {}), **given}


def _show_plan(plan: DryRun) -> None:
    if wants_json():
        show_json(plan)
        return
    say(f"steps    {', '.join(step.name for step in plan.plan)}")
    say(f"seconds  {plan.seconds.low:.0f} to {plan.seconds.high:.0f}")
    say(f"memory   {size(plan.memory_bytes.low)} to {size(plan.memory_bytes.high)}")
    say(f"file     {size(plan.bytes.low)} to {size(plan.bytes.high)}")
    for objection in plan.objections:
        say(f"{objection.severity}  {objection.text} ({objection.pointer})", "yellow")
    if not plan.ok:
        raise typer.Exit(NOT_SATISFIED)


def _show_end(job: Job) -> None:
    """Print how a job ended; exit code 3 without a verdict, 4 when its constraints do not hold."""
    if wants_json():
        show_json(job)
    elif job.verdict:
        show_verdict(job, job.verdict)
    elif job.error:
        complain_failure(job.error)
    else:
        say(f"{job.id} is {job.state}; there is no verdict.")
    if job.state in {JobState.FAILED, JobState.CANCELLED}:
        raise typer.Exit(ENDED_BADLY)
    if job.verdict and not job.verdict.satisfied:
        raise typer.Exit(NOT_SATISFIED)
