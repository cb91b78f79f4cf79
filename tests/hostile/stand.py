"""Uploads a case and has a real worker inspect it: database, blobs, lease, sandbox, runner, as in production."""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from core.database.schema import upgrade
from core.database.session import transaction
from core.database.tables import DatasetRow, ModelRow
from core.resources.model import DatasetCreate, ModelCreate
from core.services import datasets, models
from core.settings import settings
from launch.postgres import Postgres
from tests.chaos.world import make_upload
from tests.conftest import make_tenant
from tests.hostile.canary import Canary, set_out
from tests.hostile.cases import Case
from workers import presence
from workers.inspect import inspect

# An honest upload needs less; these keep the worst of the corpus short.
VARIABLES = {
    "MODELPRESS_INSPECT_SECONDS": "30",
    "MODELPRESS_INSPECT_MEMORY_BYTES": str(3 << 30),
    "MODELPRESS_SCRATCH_BYTES": str(1 << 30),
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Ending:
    """How an upload ended: its state, the code and sentence of its error, and the seconds that it took."""

    state: str
    code: str
    detail: str
    seconds: float


@contextmanager
def stand(more: Mapping[str, str]) -> Iterator["Stand"]:
    """A stand with these settings on the servers that the environment names."""
    values = {**VARIABLES, **more}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _forget()
    try:
        yield Stand(make_tenant())
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _forget()


@contextmanager
def served(more: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple["Stand", Canary, Path]]:
    """A stand with a database of its own, for programs outside of pytest: with the canary and the folder of all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Postgres(folder / "postgres", durable=False)
        values = {
            "DATABASE_URL": server.start(),
            "REDIS_URL": "redis://127.0.0.1:9/0",
            "STORAGE_URL": (folder / "blobs").as_uri(),
            "MODELPRESS_SCRATCH_DIR": str(folder / "scratch"),
        }
        os.environ.update(values)
        try:
            upgrade(values["DATABASE_URL"])
            with set_out(folder) as canary, stand({**values, **more}) as made:
                yield made, canary, folder
        finally:
            server.stop()


@dataclass(frozen=True)
class Stand:
    """One tenant whose uploads are inspected one after another."""

    tenant: str

    def inspect(self, case: Case) -> Ending:
        """Upload, inspect, look. A runner that died without a word is tried again, as in production."""
        identifier = self._create(case)
        started = time.monotonic()
        for _ in range(settings().max_worker_losses):
            self._hurry(identifier)
            inspect("")
            if (ending := self._look(case, identifier, started)).state != "inspecting":
                break
        return ending

    def _create(self, case: Case) -> str:
        uploads = tuple(make_upload(self.tenant, content, name[:255]) for name, content in case.files.items())
        with transaction() as session:
            if case.about == "model":
                return models.create(session, self.tenant, ModelCreate(uploads=uploads)).id
            asked = {"uploads": uploads, **case.spec.model_dump()}
            return datasets.create(session, self.tenant, DatasetCreate.model_validate(asked)).id

    def _hurry(self, identifier: str) -> None:
        with transaction() as session:
            row = session.get_one(ModelRow if identifier.startswith("mdl") else DatasetRow, identifier)
            row.run_after = row.created_at

    def _look(self, case: Case, identifier: str, started: float) -> Ending:
        with transaction() as session:
            get = models.get if case.about == "model" else datasets.get
            found = get(session, self.tenant, identifier)
        code, detail = (found.error.code, found.error.detail) if found.error else ("", "")
        return Ending(found.state, code, detail, time.monotonic() - started)


def written_outside(folder: Path) -> list[Path]:
    """What hostile names would have made."""
    return [path for path in (Path("/tmp/outside"), Path("/tmp/outside.py"), folder / "outside") if path.exists()]


def _forget() -> None:
    settings.cache_clear()
    presence.sandbox.cache_clear()
