"""What the demo does once a service runs: from the shipped network to its verdict and its signed webhook."""

import json
from pathlib import Path

import typer

from core.description import DatasetSpec, InputMapping, SplitArrays
from core.resources.job import Job, JobCreate
from core.resources.webhook import WebhookCreate
from core.specs.linear import LinearQuantization
from core.specs.recipe import Recipe
from core.states import JobState
from modelpress.cli.output import ENDED_BADLY, complain, complain_failure, console, say
from modelpress.cli.upload import show_dataset, show_model, upload_dataset, upload_model
from modelpress.cli.verdicts import show_verdict
from modelpress.cli.watch import watch_job
from modelpress.client import Client
from modelpress.receiver import Receiver

_WEBHOOK = "demo receiver"
_MNIST = DatasetSpec(
    task="classification",
    inputs={"x": InputMapping(layout="NHW", scale=1 / 255, mean=(0.5,), std=(0.5,))},
    splits={"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")},
)


def shipped(name: str) -> Path:
    """A file of the demo; its folder lies beside the packages, in a clone and when installed."""
    file = Path(__file__).resolve().parents[2] / "demo" / name
    if not file.exists():
        raise typer.BadParameter(f"The demo's file {file} is missing; run this in a whole clone of the repository.")
    return file


def run_demo(client: Client, receiver: Receiver, folder: Path) -> Job:
    """Run the whole path and print what happens; exit code 3 when any part of it fails."""
    _register(client, receiver)
    say("\nUploading a LeNet-5 trained on MNIST, and samples")
    model = upload_model(client, [shipped("lenet5.onnx")], "LeNet-5")
    dataset = upload_dataset(client, [shipped("mnist.npz")], "MNIST samples", _MNIST)
    show_model(client.inspected(model))
    show_dataset(client.inspected(dataset))
    say("\nRunning quantize.linear: weights and activations to 8-bit integers")
    recipe = Recipe(version=1, steps=(LinearQuantization(method="quantize.linear"),))
    asked = JobCreate(model=model.id, dataset=dataset.id, name="LeNet-5 to int8", recipe=recipe)
    job = watch_job(client, client.create_job(asked))
    if job.state != JobState.SUCCEEDED or job.verdict is None:
        if job.error:
            complain_failure(job.error)
        raise typer.Exit(ENDED_BADLY)
    console.print()
    show_verdict(job, job.verdict)
    _show_webhook(receiver, job)
    _fetch(client, job, folder)
    return job


def _register(client: Client, receiver: Receiver) -> None:
    """Make an endpoint for the receiver; those of earlier demos listen no more."""
    for old in client.webhooks().data:
        if old.name == _WEBHOOK:
            client.delete_webhook(old.id)
    made = client.create_webhook(WebhookCreate(url=receiver.url, events=("job.*",), name=_WEBHOOK))
    receiver.trust(made.secret)


def _show_webhook(receiver: Receiver, job: Job) -> None:
    event = receiver.wait_for("job.succeeded", job.id, seconds=30)
    if event is None:
        complain("failed", f"No signed job.succeeded about {job.id} arrived at {receiver.url}.")
        raise typer.Exit(ENDED_BADLY)
    say(f"\nThe webhook receiver at {receiver.url} got this and verified its signature ({event.id}):")
    say(json.dumps(event.body, indent=2, ensure_ascii=False))


def _fetch(client: Client, job: Job, folder: Path) -> None:
    say("\nFetched, each checked against its SHA-256:")
    for artifact in job.artifacts:
        for file in client.download(artifact, folder / job.id):
            say(f"  {file}")
