"""Runs of the toy runner in a real sandbox, without a database."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from core.messages import Message, RunJob, StagedFile
from core.services.files import ClaimedFile
from core.settings import settings
from core.specs.linear import LinearQuantization
from core.specs.recipe import Constraints, Recipe, Target
from core.storage.blobs import open_blobs
from workers.bubblewrap import Bubblewrap
from workers.confinement import Bounds, Sandbox
from workers.ending import End, Outcome
from workers.sandbox import find_sandbox, runner_program
from workers.staging import staged
from workers.supervise import Ears, Limits, Supervision

TOY = "tests.workers.toy_runner"
LIMITS = Limits(wall_seconds=20, stall_seconds=20, memory_bytes=1 << 30, disk_bytes=1 << 30)


def toy_processes() -> list[psutil.Process]:
    """Processes below this one that belong to a toy runner, its sandbox included."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if TOY in child.cmdline():
                found.append(child)
    return found


@dataclass
class Stage:
    """Runs scripts of the toy runner and keeps what they said."""

    sandbox: Sandbox
    folder: Path
    heard: list[Message] = field(default_factory=list)

    def source(self, text: str) -> ClaimedFile:
        content = text.encode()
        digest = sha256(content).hexdigest()
        path = self.folder / "upload"
        path.write_bytes(content)
        open_blobs(settings().storage_url).put_file(path, digest)
        return ClaimedFile(filename="toy.json", sha256=digest, bytes=len(content))

    def run(
        self,
        *actions: dict[str, object],
        limits: Limits = LIMITS,
        order: Callable[[], End | None] = lambda: None,
        look: Callable[[Path], None] = lambda out: None,
        hear: Callable[[Message], bool] | None = None,
    ) -> Outcome:
        source = self.source(json.dumps({"run": actions}))
        with staged((source,), open_blobs(settings().storage_url)) as run:
            staged_file = StagedFile(
                path=self.sandbox.inputs(run)[0], filename=source.filename, sha256=source.sha256, bytes=source.bytes
            )
            request = RunJob(
                job="job_toy",
                recipe=Recipe(steps=(LinearQuantization(),)),
                target=Target(),
                constraints=Constraints(),
                seed=0,
                model=(staged_file,),
                lock_path=self.sandbox.measuring_lock(run),
            )
            run.request.write_text(request.model_dump_json())
            program = runner_program(self.sandbox.workdir(run))
            started = self.sandbox.start(run, program, Bounds(limits.memory_bytes, limits.disk_bytes))
            outcome = Supervision(started, run, limits=limits, ears=Ears(hear or self._hear, order)).watch()
            look(run.out)
            return outcome

    def _hear(self, message: Message) -> bool:
        self.heard.append(message)
        return True


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Settings without servers; a space in every path."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name, value in {
        "DATABASE_URL": "postgresql://127.0.0.1:9/none",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "STORAGE_URL": (folder / "blobs").as_uri(),
        "MODELPRESS_SCRATCH_DIR": str(folder / "scratch"),
        "MODELPRESS_RUNNER_MODULE": TOY,
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield folder
    settings.cache_clear()


def kinds() -> list[str]:
    return ["real root", "user namespace"] if os.geteuid() == 0 else ["user namespace"]


@pytest.fixture
def stage(scratch: Path) -> Stage:
    """The sandbox that a worker of this user takes."""
    return Stage(find_sandbox(), scratch)


@pytest.fixture(params=kinds())
def each_stage(request: pytest.FixtureRequest, scratch: Path) -> Stage:
    """Every kind of sandbox that this user can have; root has two."""
    found = find_sandbox()
    assert isinstance(found, Bubblewrap)
    return Stage(found.as_kind(drops=request.param == "real root"), scratch)
