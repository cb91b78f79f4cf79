"""`modelpress upload`: a model, or samples with `--dataset`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from core.description import DatasetSpec, SplitDescription, Task
from core.resources.model import Dataset, DatasetCreate, Model, ModelCreate
from core.states import InspectionState
from modelpress.cli.credentials import connect
from modelpress.cli.dataset_options import checked, dataset_spec, read_yaml
from modelpress.cli.numbers import amount, size
from modelpress.cli.output import (
    ENDED_BADLY,
    JsonFlag,
    complain_failure,
    error_console,
    say,
    show_json,
    wants_json,
)
from modelpress.client import Client
from modelpress.folder import Sent, files_of

# Of more classes the counts would fill the screen.
MOST_CLASSES = 20


def upload(  # noqa: PLR0913  (every parameter is an option of the command line)
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, help="A model or samples; several files, or a folder, where they belong together."),
    ],
    *,
    name: Annotated[str | None, typer.Option(help="A name; else the name of the file.")] = None,
    dataset: Annotated[
        bool,
        typer.Option(
            "--dataset", help="The files hold samples: .npz, .safetensors, .zip of images, parquet, CSV, JSONL, text."
        ),
    ] = False,
    spec: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="YAML with `task`, `inputs` and `splits`, instead of options."),
    ] = None,
    task: Annotated[
        str, typer.Option(help=f"{', '.join(get_args(Task)[:-1])} or {get_args(Task)[-1]}.")
    ] = "classification",
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", help="Repeatable: 'x layout=NHW scale=1/255 mean=0.5 std=0.5 size=224,224'."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable: evaluation=SAMPLES,LABELS; left out: found by the names in the files."),
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Upload a model, or samples with --dataset; wait for the inspection and print what it found."""
    if dataset and any(file.is_dir() for file in files):
        raise typer.BadParameter("samples are files; put a folder of images into a zip", param_hint="FILES")
    first = files[0].resolve()
    name = name or (first.name if first.is_dir() else first.stem)
    with connect() as client:
        if not dataset:
            show_model(client.inspected(upload_model(client, files, name)))
            return
        if spec:
            read = checked(DatasetSpec, read_yaml(spec), str(spec))
        else:
            read = dataset_spec(task=task, inputs=input_ or (), splits=split or ())
        show_dataset(client.inspected(upload_dataset(client, files, name, read)))


def upload_model(client: Client, files: Sequence[Path], name: str) -> Model:
    """Upload the files of a model, or a folder with one; its inspection has begun."""
    received = _send(client, files_of(files))
    return client.create_model(ModelCreate(uploads=received, name=name))


def upload_dataset(client: Client, files: Sequence[Path], name: str, spec: DatasetSpec) -> Dataset:
    """Upload samples; their inspection has begun."""
    received = _send(client, files_of(files))
    asked = {**spec.model_dump(exclude_unset=True), "uploads": received, "name": name}
    return client.create_dataset(DatasetCreate.model_validate(asked))


def _send(client: Client, files: Sequence[Sent]) -> tuple[str, ...]:
    """The ids of the uploads; a terminal shows how far they are."""
    received: list[str] = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = wants_json() or not error_console.is_terminal
    with Progress(*columns, console=error_console, transient=True, disable=hidden) as shown:
        bar = shown.add_task("", total=sum(file.path.stat().st_size for file in files))
        done = 0
        for file in files:
            shown.update(bar, description=file.name)

            def tell(sent: int, before: int = done) -> None:
                shown.update(bar, completed=before + sent)

            received.append(client.upload(file.path, file.name, tell).id)
            done += file.path.stat().st_size
    return tuple(received)


def show_model(model: Model) -> None:
    """Print what inspection found of a model; exit code 3 when it was rejected."""
    if wants_json():
        show_json(model)
    if model.state == InspectionState.REJECTED and model.error:
        complain_failure(model.error)
        raise typer.Exit(ENDED_BADLY)
    say(f"{model.id}  {model.name} is ready", "green")
    say(f"  {size(model.bytes)}, {amount(model.parameters or 0)} parameters, {amount(model.macs or 0)} multiply-adds")
    for name, capability in model.capabilities.items():
        fits = f"fits {len(capability.layers)} layers" if capability.ok else f"does not fit: {capability.why}"
        say(f"  {name} {fits}")
    for warning in model.warnings:
        say(f"  note: {warning}", "yellow")


def _classes(dataset: Dataset, split: SplitDescription) -> str:
    """How many samples each class has, of few classes."""
    names = dataset.label_names or tuple(map(str, range(len(split.per_class))))
    if not 0 < len(split.per_class) <= MOST_CLASSES:
        return ""
    return " (" + ", ".join(f"{name}: {count:,}" for name, count in zip(names, split.per_class, strict=False)) + ")"


def show_dataset(dataset: Dataset) -> None:
    """Print what inspection found of samples; exit code 3 when they were rejected."""
    if wants_json():
        show_json(dataset)
    if dataset.state == InspectionState.REJECTED and dataset.error:
        complain_failure(dataset.error)
        raise typer.Exit(ENDED_BADLY)
    say(f"{dataset.id}  {dataset.name} is ready", "green")
    for name, split in dataset.splits.items():
        say(f"  {name}: {split.samples:,} samples{_classes(dataset, split) if split.labelled else ' without labels'}")
    for warning in dataset.warnings:
        say(f"  note: {warning}", "yellow")
