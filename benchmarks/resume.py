"""A recipe of three steps, killed at random moments and gone on with by another worker: are the bytes the same?

    python -m benchmarks.resume --kills 5

A worker, its runner and all they started are ended by SIGKILL when the job has come as far as was drawn, anywhere from
its preparation to its export; the other worker goes on. Every file that holds no measured number is compared with the
undisturbed run's. Each run is of a tenant of its own, so that none can take the beginning of another.
"""

import argparse
import random
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import make_url, select

from benchmarks.chaos import administer
from core.database.schema import upgrade
from core.database.session import transaction
from core.database.tables import JobRow, StreamRow
from core.resources.job import JobCreate
from core.resources.model import DatasetCreate, ModelCreate
from core.services import artifacts, datasets, jobs, models
from core.states import JobState
from launch.postgres import Postgres
from launch.valkey import Valkey
from tests.chaos.world import World, make_tenant, make_upload, told, variables

DEMO = Path(__file__).parents[1] / "demo"
DATASET = {
    "task": "classification",
    "inputs": {"x": {"layout": "NHW", "scale": 1 / 255, "mean": [0.5], "std": [0.5]}},
    "splits": {"train": {"x": "x_train", "y": "y_train"}, "evaluation": {"x": "x_test", "y": "y_test"}},
}
RECIPE = {
    "steps": [
        {"method": "distill.logits", "steps": 250, "student": {"width": 0.5}},
        {"method": "quantize.linear"},
        {"method": "finetune", "steps": 250},
    ]
}
# What holds no measured number.
SAME = ("model.onnx", "model.pt2", "model.safetensors", "plan.json", "recipe.json")
CHECKPOINT_SECONDS = 1.0
# Of the whole job, by its own progress: the steps are from 0.1 to 0.55, export until 0.65.
FRACTIONS = (0.02, 0.62)
JOB_SECONDS = 900


@dataclass(frozen=True)
class Ended:
    """A job that has ended: the digests of its files, and what became of its attempts."""

    digests: dict[str, str]
    seconds: float
    attempts: int
    log: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill jobs of three steps, and compare what they end with.")
    parser.add_argument("--kills", type=int, default=5, help="runs that are killed once each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres, valkey = Postgres(folder / "postgres", durable=False), Valkey(folder / "valkey", durable=False)
        try:
            server, broker = postgres.start(), valkey.start()
            same = in_world(folder, server, broker, asked.kills, asked.seed)
        finally:
            valkey.stop()
            postgres.stop()
    sys.exit(0 if same else 1)


def in_world(folder: Path, server: str, broker: str, kills: int, seed: int) -> bool:
    """Two workers with the real runner and a tenth of the clock; whether every run ended with the same bytes."""
    database = f"resume_{uuid.uuid4().hex[:12]}"
    administer(server, "CREATE DATABASE {}", database)
    url = make_url(server).set(database=database).render_as_string(hide_password=False)
    upgrade(url)
    environment = {
        **variables(folder, url, broker, 0.1),
        "MODELPRESS_RUNNER_MODULE": "runner",
        "MODELPRESS_CHECKPOINT_SECONDS": str(CHECKPOINT_SECONDS),
    }
    with told(environment), World(folder, 0.1, environment) as world:
        world.start(
            "inspect", "-m", "celery", "-A", "workers.app", "worker", "-P", "threads", "-Q", "inspect", "-c", "1"
        )
        straight = run(world, None)
        print(f"undisturbed: {straight.seconds:.1f} s, model.onnx {straight.digests['model.onnx'][:12]}", flush=True)
        moments = random.Random(seed)
        same = 0
        for number in range(kills):
            moment = moments.uniform(*FRACTIONS)
            ended = run(world, moment)
            differing = [kind for kind in SAME if ended.digests[kind] != straight.digests[kind]]
            equal = not differing
            same += equal
            told_so = next(
                (line for line in ended.log if line.startswith(("Going on", "Starting over"))), "from the start"
            )
            print(
                f"kill {number + 1} at {moment:.0%} of the job: attempts {ended.attempts}, {ended.seconds:5.1f} s, "
                f"{'equal' if equal else 'DIFFERENT: ' + ', '.join(differing)}; {told_so}",
                flush=True,
            )
            if world.processes["one"].poll() is not None:
                world.start_worker("one")
            if world.processes["two"].poll() is not None:
                world.start_worker("two")
        print(f"{same} of {kills} ended with the bytes of the undisturbed run: {', '.join(SAME)}")
    administer(server, "DROP DATABASE {} WITH (FORCE)", database)
    return same == kills


def run(world: World, kill_at: float | None) -> Ended:
    """One job of a fresh tenant, killed once where a fraction of its progress is given."""
    tenant = make_tenant()
    job = submit(world, tenant)
    world.until(lambda: row_of(job).state == JobState.RUNNING, 60, "the job runs")
    began = time.monotonic()
    if kill_at is not None:
        world.until(lambda: has_come(job, kill_at), JOB_SECONDS, "the job has come so far")
        kill_tree(world, job)
    world.until(lambda: world.ended(job), JOB_SECONDS, "the job ends")
    seconds = time.monotonic() - began
    with transaction() as session:
        row = session.get_one(JobRow, job)
        assert row.state == JobState.SUCCEEDED, row.error
        found = artifacts.list_(session, tenant, job)
        logs = session.scalars(select(StreamRow).where(StreamRow.job_id == job, StreamRow.type == "log"))
        return Ended(
            {each.kind: each.sha256 for each in found if each.kind in SAME},
            seconds,
            row.attempt,
            tuple(str(event.payload["text"]) for event in logs),
        )


def has_come(job: str, fraction: float) -> bool:
    """Whether the job has come so far; an error where it has ended unseen."""
    row = row_of(job)
    assert row.state == JobState.RUNNING, row.error
    return row.progress is not None and row.progress["fraction"] >= fraction


def kill_tree(world: World, job: str) -> None:
    worker = psutil.Process(world.owner(job).pid)
    family = [*worker.children(recursive=True), worker]
    for process in family:
        process.kill()
    world.owner(job).wait()


def submit(world: World, tenant: str) -> str:
    model_upload = make_upload(tenant, (DEMO / "lenet5.onnx").read_bytes(), "lenet5.onnx")
    data_upload = make_upload(tenant, (DEMO / "mnist.npz").read_bytes(), "mnist.npz")
    with transaction() as session:
        model = models.create(session, tenant, ModelCreate(uploads=(model_upload,))).id
        dataset = datasets.create(
            session, tenant, DatasetCreate.model_validate({"uploads": [data_upload], **DATASET})
        ).id

    def ready() -> bool:
        with transaction() as session:
            states = {
                models.get(session, tenant, model).state.value,
                datasets.get(session, tenant, dataset).state.value,
            }
        assert "rejected" not in states
        return states == {"ready"}

    world.until(ready, 120, "model and data are ready")
    asked = {"model": model, "dataset": dataset, "recipe": RECIPE, "target": {"batch_sizes": [1]}}
    with transaction() as session:
        return jobs.create(session, tenant, JobCreate.model_validate(asked)).id


def row_of(job: str) -> JobRow:
    with transaction() as session:
        return session.get_one(JobRow, job)


if __name__ == "__main__":
    main()
