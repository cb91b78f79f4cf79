"""Two workers and a dispatcher as real processes on real servers, with the toy runner and a clock of one's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import psutil
from celery import Celery
from sqlalchemy import func, select

from core.database.session import engine, transaction
from core.database.tables import (
    ArtifactRow,
    CheckpointRow,
    DatasetRow,
    DeliveryRow,
    EventRow,
    JobRow,
    MetricRow,
    ModelRow,
    StreamRow,
    TenantRow,
    WebhookRow,
)
from core.description import INSPECTOR_VERSION
from core.ids import new_id
from core.queue import _configuration
from core.resources.job import Job, JobCreate
from core.resources.model import DatasetCreate, ModelCreate
from core.resources.webhook import WebhookCreate
from core.services import datasets, jobs, models, stream, uploads, webhooks
from core.settings import settings
from core.states import JOB_MOVES, TERMINAL, JobState
from core.storage.blobs import open_blobs
from launch.process import Command, start
from tests.workers.toy_runner import DATASET, MODEL

ROOT = Path(__file__).parents[2]
# The times of the service that a test may pass faster.
CLOCK = (
    "heartbeat_seconds",
    "lease_seconds",
    "self_fence_seconds",
    "sweep_seconds",
    "second_loss_delay_seconds",
)
_WORKER = ("-m", "celery", "-A", "workers.app", "worker", "-P", "threads", "--without-gossip", "--without-mingle")
_POLL = 0.02


def variables(folder: Path, database_url: str, redis_url: str, clock: float) -> dict[str, str]:
    """The environment of every process of the world."""
    times = {f"MODELPRESS_{name.upper()}": str(_default(name) * clock) for name in CLOCK}
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "STORAGE_URL": (folder / "blobs").as_uri(),
        "MODELPRESS_SCRATCH_DIR": str(folder / "scratch"),
        "MODELPRESS_QUEUE_PREFIX": f"chaos-{folder.name}:",
        "MODELPRESS_RUNNER_MODULE": "tests.workers.toy_runner",
        "MODELPRESS_WEBHOOK_ALLOW": '["127.0.0.0/8"]',
        "OMP_NUM_THREADS": "1",
        **times,
    }


def _default(name: str) -> float:
    from core.settings import Settings

    return float(Settings.model_fields[name].default)


@contextmanager
def told(values: Mapping[str, str]) -> Iterator[None]:
    """This process has these settings too, since it submits the jobs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _forget()
    try:
        yield
    finally:
        engine().dispose()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _forget()


def _forget() -> None:
    settings.cache_clear()
    engine.cache_clear()


@dataclass
class World:
    """Processes, and one tenant with a model, a data set and a webhook."""

    folder: Path
    clock: float
    environment: dict[str, str]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    runners: list[psutil.Process] = field(default_factory=list)
    tenant: str = ""

    def __enter__(self) -> "World":
        self.tenant = make_tenant()
        self.start("dispatch", "-m", "workers.dispatch")
        for name in ("one", "two"):
            self.start_worker(name)
        self.until(lambda: len(self.ready()) == 2, 60, "two workers")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_worker(self, name: str) -> None:
        self.start(name, *_WORKER, "-Q", "compute", "-c", "1", "-n", f"{name}@{self.folder.name}", "-l", "INFO")

    def start(self, name: str, *arguments: str) -> None:
        environment = {**os.environ, **self.environment}
        log = self.folder / f"{name}.log"
        self.processes[name] = start(Command((sys.executable, *arguments), environment, log, cwd=ROOT))

    def ready(self) -> list[str]:
        logs = [self.folder / f"{name}.log" for name in self.processes if name != "dispatch"]
        return [log.stem for log in logs if log.exists() and " ready." in log.read_text(errors="replace")]

    def until(self, question: Callable[[], object], seconds: float, what: str) -> float:
        """Wait until the question is answered with yes; gives the seconds that it took."""
        began = time.monotonic()
        while not question():
            if time.monotonic() - began > seconds:
                raise AssertionError(f"{what}: not within {seconds} seconds\n{self.logs()}")
            time.sleep(_POLL)
        return time.monotonic() - began

    def logs(self) -> str:
        tails = [(log.name, log.read_text(errors="replace")[-3000:]) for log in sorted(self.folder.glob("*.log"))]
        return "\n".join(f"--- {name}\n{tail}" for name, tail in tails)

    def submit(self, *actions: dict[str, object], asked: Mapping[str, object] = MappingProxyType({})) -> str:
        """A job whose runner does these things."""
        return submit(self.tenant, *actions, asked=asked)

    def job(self, identifier: str) -> Job:
        with transaction() as session:
            return jobs.get(session, self.tenant, identifier)

    def row(self, identifier: str) -> JobRow:
        with transaction() as session:
            return session.get_one(JobRow, identifier)

    def cancel(self, identifier: str) -> None:
        with transaction() as session:
            jobs.cancel(session, self.tenant, identifier)

    def is_running(self, identifier: str) -> bool:
        """Whether a runner has begun to talk about the job."""
        row = self.row(identifier)
        return row.state == JobState.RUNNING and row.progress is not None

    def ended(self, identifier: str) -> bool:
        return self.row(identifier).state in TERMINAL

    def checkpoints(self, identifier: str) -> list[CheckpointRow]:
        """What is kept of the job to go on from, oldest first."""
        kept = select(CheckpointRow).where(CheckpointRow.job_id == identifier, CheckpointRow.dropped_at.is_(None))
        with transaction() as session:
            return list(session.scalars(kept.order_by(CheckpointRow.id)))

    def log(self, identifier: str) -> list[str]:
        """The lines of the job's log."""
        with transaction() as session:
            return [str(line.payload["text"]) for line in stream.last_lines(session, self.tenant, identifier)]

    def owner(self, identifier: str) -> "subprocess.Popen[bytes]":
        """The worker process that holds the job."""
        owner = self.row(identifier).lease_owner or ""
        return next(process for process in self.processes.values() if f"-{process.pid}-" in owner)

    def runner_processes(self) -> list[psutil.Process]:
        """Every process below a worker; remembered, so that none can be forgotten."""
        found = []
        for name, process in self.processes.items():
            if name != "dispatch" and process.poll() is None:
                found += psutil.Process(process.pid).children(recursive=True)
        self.runners += found
        return found

    def orphans(self) -> list[psutil.Process]:
        """Runner processes seen so far that still live."""
        return [process for process in self.runners if lives(process)]

    def broker(self) -> Celery:
        """The Celery app with the settings of this world; that of `core.queue` keeps those it saw first."""
        celery = Celery("chaos", set_as_current=False)
        celery.add_defaults(_configuration)
        return celery

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()


def submit(tenant: str, *actions: dict[str, object], asked: Mapping[str, object] = MappingProxyType({})) -> str:
    """A job of a tenant whose runner does these things."""
    model = make_model(tenant, json.dumps({"run": actions}))
    usual = {"model": model, "dataset": _make_dataset(tenant), "recipe": {"steps": [{"method": "quantize.linear"}]}}
    asked = {**usual, **asked}
    with transaction() as session:
        return jobs.create(session, tenant, JobCreate.model_validate(asked)).id


def script(steps: int, seconds: float) -> list[dict[str, object]]:
    """A job of so many steps, each with a number, that leaves one file."""
    actions: list[dict[str, object]] = []
    for count in range(steps):
        fraction = count / steps
        actions += [
            {"say": {"kind": "progress", "method": "toy", "fraction": fraction}},
            {"say": {"kind": "metric", "name": "loss", "value": 1 - fraction, "at": count}},
            {"sleep": seconds / steps},
        ]
    files = [{"path": "model.onnx", "filename": "model.onnx"}]
    return [
        *actions,
        {"write": ["out/model.onnx", "the result"]},
        {"say": {"kind": "artifact", "artifact_kind": "model.onnx", "files": files}},
        {"done": 1},
    ]


def check_invariants(world: World) -> None:
    """I1 to I5 of the durability reference, read from the database and the process table."""
    world.until(lambda: not world.orphans(), 5, "no orphans (I5)")
    with transaction() as session:
        now = session.scalar(select(func.now()))
        endpoints = session.scalars(select(WebhookRow)).all()
        for job in session.scalars(select(JobRow)):
            if job.state == JobState.RUNNING:
                assert job.lease_expires_at is not None, "I1"
                assert job.lease_expires_at > now, "I1"
            else:
                assert job.lease_owner is None, "I5"
            stream = session.scalars(select(StreamRow).where(StreamRow.job_id == job.id).order_by(StreamRow.seq)).all()
            assert [event.seq for event in stream] == list(range(1, job.stream_seq + 1)), "I3"
            states = [event.payload["state"] for event in stream if event.type == "job.state"]
            assert all(new == old or new in JOB_MOVES[JobState(old)] for old, new in pairwise(states)), "I3"
            metrics = select(MetricRow.epoch).where(MetricRow.job_id == job.id).order_by(MetricRow.id)
            epochs = list(session.scalars(metrics))
            assert epochs == sorted(epochs), "I3"
            if job.state in TERMINAL:
                left = [kept for kept in world.checkpoints(job.id) if not kept.finished]
                assert left == [], "I5"
                ends = select(EventRow).where(EventRow.subject_id == job.id, EventRow.type.in_(_END_TYPES))
                events = session.scalars(ends).all()
                assert [event.type for event in events] == [f"job.{job.state}"], "I4"
                told = select(DeliveryRow.webhook_id).where(DeliveryRow.event_id == events[0].id)
                assert set(session.scalars(told)) == {endpoint.id for endpoint in endpoints}, "I4"
        kept = session.scalars(select(ArtifactRow).where(ArtifactRow.state == "final")).all()
        names = [(artifact.job_id, artifact.kind) for artifact in kept]
        assert len(set(names)) == len(names), "I2"
        going_on = session.scalars(select(CheckpointRow).where(CheckpointRow.dropped_at.is_(None))).all()
        blobs = open_blobs(settings().storage_url)
        for area, rows in ((blobs, kept), (blobs.of_area("checkpoints"), going_on)):
            for file in (file for row in rows for file in row.files):
                content = b"".join(area.get(file["sha256"]))
                assert sha256(content).hexdigest() == file["sha256"], "I2"


_END_TYPES = tuple(f"job.{state}" for state in TERMINAL)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def make_tenant() -> str:
    identifier = new_id("tnt")
    with transaction() as session:
        session.add(TenantRow(id=identifier, name="chaos"))
    with transaction() as session:
        webhooks.create(session, identifier, WebhookCreate(url="http://127.0.0.1:9/hook", events=("job.*",)))
    return identifier


def make_upload(tenant: str, content: bytes, filename: str = "toy.json") -> str:
    digest = sha256(content).hexdigest()
    path = settings().scratch_dir / f"upload-{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    open_blobs(settings().storage_url).put_file(path, digest)
    path.unlink()
    with transaction() as session:
        return uploads.record(session, tenant, filename, digest, len(content)).id


def make_model(tenant: str, text: str) -> str:
    upload = make_upload(tenant, text.encode())
    with transaction() as session:
        model = models.create(session, tenant, ModelCreate(uploads=(upload,)))
        _make_ready(session.get_one(ModelRow, model.id), MODEL.model_dump(mode="json"))
    return model.id


def _make_dataset(tenant: str) -> str:
    upload = make_upload(tenant, b"any data")
    asked = {"uploads": [upload], "task": "classification", "splits": {"train": {"x": "x", "y": "y"}}}
    with transaction() as session:
        dataset = datasets.create(session, tenant, DatasetCreate.model_validate(asked))
        _make_ready(session.get_one(DatasetRow, dataset.id), DATASET.model_dump(mode="json"))
    return dataset.id


def _make_ready(row: ModelRow | DatasetRow, description: dict[str, object]) -> None:
    row.state, row.description, row.inspector_version = "ready", description, INSPECTOR_VERSION
