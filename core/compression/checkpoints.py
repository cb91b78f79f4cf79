"""Checkpoints of a job: files below `out` from which another run goes on to the same bytes, written and read."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.compression.context import Emit, StepCheckpoint
from core.compression.material import Material
from core.compression.method import Report
from core.errors import ModelpressError
from core.messages import ArtifactFile, CheckpointMessage, LogMessage, Resume, StagedFile
from core.network.checkpoint import save_tensors

FOLDER = "checkpoints"
_STEPS, _STATE, _TENSORS = "steps.json", "state.json", "state.safetensors"

# What a damaged file can make torch, safetensors, JSON and our own readers raise.
_ERRORS = (SafetensorError, ValidationError, OSError, LookupError, ValueError, TypeError, RuntimeError, StopIteration)

# What a full disk, or a network that the format does not know, makes of writing one.
UNWRITABLE = (ModelpressError, SafetensorError, OSError)

Kept = tuple[dict[str, Tensor], dict[str, JsonValue]]


class FinishedStep(BaseModel):
    """What is known of a step that has ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    report: Report
    seconds: float
    quality: float | None


class _Steps(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    version: Literal[1] = 1
    steps: tuple[FinishedStep, ...]
    log: tuple[str, ...]


@dataclass(frozen=True)
class Progressed:
    """How far a job is: the material after its finished steps, the log so far, and the state of the next step."""

    material: Material
    steps: tuple[FinishedStep, ...] = ()
    log: tuple[str, ...] = ()
    partial: Kept | None = None


@final
class CheckpointWriter:
    """Writes checkpoints into numbered folders below `out/checkpoints` and announces them.

    Inside a step none is due before `seconds` have passed, nor while the one before has not been taken.
    """

    def __init__(self, out: Path, emit: Emit, seconds: float) -> None:
        self._out = out
        self._emit = emit
        self._seconds = seconds
        self._number = 0
        self._at = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for another one inside a step."""
        waiting = self._folder().exists() and any(self._folder().iterdir())
        return not waiting and time.monotonic() - self._at >= self._seconds

    def keep_material(self, step: int, progressed: Progressed) -> Material:
        """Write what the steps up to `step` have made, and give it as a run that goes on from there would read it.

        So whoever is interrupted and whoever is not go on with the same. Raises one of `UNWRITABLE`.
        """
        folder = self._begin()
        progressed.material.save(folder)
        told = _Steps(steps=progressed.steps, log=progressed.log)
        material = progressed.material.restore({path.name: path for path in folder.iterdir()})
        (folder / _STEPS).write_text(told.model_dump_json(), encoding="utf-8")
        self._announce(folder, step, finished=True)
        return material

    def keep_state(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> None:
        """Write the state of a step that goes on; the step goes on as well where it cannot be written."""
        try:
            folder = self._begin()
            save_tensors(tensors, folder / _TENSORS)
            (folder / _STATE).write_text(json.dumps(dict(facts)), encoding="utf-8")
        except UNWRITABLE as error:
            self.discard(f"inside step {step + 1}", error)
        else:
            self._announce(folder, step, finished=False)

    def discard(self, where: str, error: Exception) -> None:
        """Remove what could not be written to its end, and say so."""
        shutil.rmtree(self._folder(), ignore_errors=True)
        self._at = time.monotonic()
        self._emit(LogMessage(level="warning", text=f"No checkpoint {where}: {str(error)[:300]}"))

    def _folder(self) -> Path:
        return self._out / FOLDER / str(self._number)

    def _begin(self) -> Path:
        self._number += 1
        self._folder().mkdir(parents=True)
        return self._folder()

    def _announce(self, folder: Path, step: int, *, finished: bool) -> None:
        names = sorted(path.name for path in folder.iterdir())
        files = tuple(ArtifactFile(path=f"{FOLDER}/{folder.name}/{name}", filename=name) for name in names)
        self._at = time.monotonic()
        self._emit(CheckpointMessage(step=step, finished=finished, files=files))


@final
class FileCheckpoint(StepCheckpoint):
    """The checkpoints of one step."""

    def __init__(self, writer: CheckpointWriter, step: int, kept: Kept | None) -> None:
        self._writer = writer
        self._step = step
        self._kept = kept

    def restore(self) -> Kept | None:
        """What an earlier run of the step kept last."""
        return self._kept

    def due(self) -> bool:
        """Whether so much time has passed, and whoever takes checkpoints has taken the last."""
        return self._writer.is_due()

    def keep(self, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> None:
        """Write and announce the state."""
        self._kept = None
        self._writer.keep_state(self._step, tensors, facts)


def read_progress(resume: Resume, material: Material, methods: tuple[str, ...]) -> Progressed:
    """How far an earlier run came; `material` is what its first step got. Raises `corrupt_file` and other errors."""
    files, partial = _by_name(resume.finished), _by_name(resume.partial)
    try:
        progressed = Progressed(material)
        if files:
            told = _Steps.model_validate_json(files.pop(_STEPS).read_bytes())
            if tuple(step.method for step in told.steps) != methods[: resume.steps]:
                raise ValueError("it is of other steps")
            progressed = Progressed(material.restore(files), told.steps, told.log)
        return progressed if not partial else _with_state(progressed, partial)
    except _ERRORS as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelpressError("corrupt_file", f"The checkpoint cannot be read: {line[:300]}") from error


def _with_state(progressed: Progressed, files: dict[str, Path]) -> Progressed:
    tensors = {name: value.clone() for name, value in load_file(files[_TENSORS]).items()}
    facts = json.loads(files[_STATE].read_bytes())
    return Progressed(progressed.material, progressed.steps, progressed.log, (tensors, dict(facts)))


def _by_name(files: tuple[StagedFile, ...]) -> dict[str, Path]:
    return {file.filename: Path(file.path) for file in files}
