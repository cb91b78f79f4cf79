"""The state of the service: who is alive, what waits, what this machine is."""

import os
import platform
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.database.tables import DatasetRow, DeliveryRow, JobRow, Json, ModelRow, WorkerRow
from core.resources.system import Host, System, Worker
from core.services import deliveries
from core.settings import settings
from core.states import InspectionState, JobState

# Among the facts of a worker, the versions of what it can measure in.
RUNTIMES = "runtimes"
_CPU_INFO = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")
# The instruction sets that decide how fast integer kernels are.
_TELLING_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """A sign of life of a worker or dispatcher."""

    id: str
    kind: str
    host: str
    pid: int
    sandbox: str
    busy_with: str | None = None
    facts: Json = field(default_factory=dict)


def beat(session: Session, worker: WorkerBeat) -> None:
    """Notes that a worker is alive, by the database's clock."""
    changing = {"sandbox": worker.sandbox, "busy_with": worker.busy_with, "facts": worker.facts}
    row = {"id": worker.id, "kind": worker.kind, "host": worker.host, "pid": worker.pid, **changing}
    session.execute(
        insert(WorkerRow)
        .values(row)
        .on_conflict_do_update(index_elements=["id"], set_={**changing, "heartbeat_at": func.now()})
    )


def system(session: Session) -> System:
    """Version, workers, queues, jobs by state, and the host of the process that answers."""
    workers = session.scalars(select(WorkerRow).order_by(WorkerRow.kind, WorkerRow.id)).all()
    sandboxes = {worker.sandbox for worker in workers} | {settings().sandbox}
    counted = dict(session.execute(select(JobRow.state, func.count()).group_by(JobRow.state)).all())
    return System(
        version=version("modelpress"),
        sandbox="none" if "none" in sandboxes else next(iter(sorted(sandboxes - {"auto"})), "auto"),
        workers=tuple(_show(worker) for worker in workers),
        queues=_waiting(session),
        jobs={state: counted.get(state, 0) for state in JobState},
        host=host(),
        runtimes=runtimes(),
    )


@cache
def host() -> Host:
    """The machine of this process."""
    cpu, flags = _read_cpu()
    return Host(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu=cpu,
        flags=tuple(flag for flag in _TELLING_FLAGS if flag in flags),
        gpus=_read_gpus(),
        memory_bytes=psutil.virtual_memory().total,
    )


def runner_threads() -> int:
    """The threads that a runner of this process's worker computes with."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


@cache
def runtimes() -> dict[str, str]:
    """The versions of what results are made for and with; nothing is imported for it."""
    found = {}
    for name in ("onnxruntime", "openvino", "onnx", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def offered_runtimes(session: Session) -> frozenset[str] | None:
    """What the workers that are alive can measure in; None while none has told."""
    told = [facts[RUNTIMES] for facts in session.scalars(select(WorkerRow.facts)) if RUNTIMES in facts]
    return frozenset().union(*told) if told else None


def _waiting(session: Session) -> dict[str, int]:
    jobs = select(func.count()).where(JobRow.state == JobState.QUEUED)
    inspections = [
        select(func.count()).where(table.state == InspectionState.INSPECTING, table.lease_owner.is_(None))
        for table in (ModelRow, DatasetRow)
    ]
    due = select(func.count()).select_from(DeliveryRow).where(*deliveries.due())
    return {
        "compute": session.scalar(jobs) or 0,
        "inspect": sum(session.scalar(statement) or 0 for statement in inspections),
        "deliver": session.scalar(due) or 0,
    }


def _read_cpu() -> tuple[str, frozenset[str]]:
    if not _CPU_INFO.exists():
        return platform.processor() or platform.machine(), frozenset()
    pairs = (line.partition(":") for line in _CPU_INFO.read_text().split("\n\n")[0].splitlines())
    facts = {name.strip().lower(): value.strip() for name, _, value in pairs}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, frozenset((facts.get("flags") or facts.get("features") or "").split())


def _read_gpus() -> tuple[str, ...]:
    lines = (line for path in sorted(_GPUS.glob("*/information")) for line in path.read_text().splitlines())
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def _show(row: WorkerRow) -> Worker:
    return Worker(
        id=row.id,
        kind=row.kind,
        host=row.host,
        pid=row.pid,
        sandbox=row.sandbox,
        busy_with=row.busy_with,
        heartbeat_at=row.heartbeat_at,
        runtimes={name: str(version) for name, version in row.facts.get(RUNTIMES, {}).items()},
    )
