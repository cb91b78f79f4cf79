"""Runs a job: reads the model, takes the recipe's steps, writes the files, measures them, and gives the verdict."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import torch

from core.compression.bundle import write_bundle
from core.compression.checkpoints import (
    UNWRITABLE,
    CheckpointWriter,
    FileCheckpoint,
    FinishedStep,
    Progressed,
    read_progress,
)
from core.compression.context import Context, Emit
from core.compression.material import ONNX, Material
from core.compression.method import Report
from core.compression.pace import Pace
from core.compression.papers import Papers, reproduce_of
from core.compression.preparation import Prepared, prepare
from core.compression.replay import read_plan, seed_of_step
from core.errors import ModelpressError
from core.measure.verdict import MeasureRequest, measure_and_judge
from core.messages import ArtifactFile, ArtifactMessage, LogMessage, Message, ProgressMessage, RunJob, StepMessage
from core.specs.base import Capability, Spec
from core.specs.order import find_clash
from core.states import StepState
from core.verdict import Verdict

# Where each part of a job ends, as a fraction of the whole.
PREPARED, COMPRESSED, EXPORTED = 0.1, 0.55, 0.65


@dataclass
class Stage:
    """What a part of the job leaves to be told when it ends."""

    quality: float | None = None
    seconds: float = 0.0


def run(request: RunJob, emit: Emit, work: Path) -> Verdict:
    """Run a job in the folder `work`; files go to `work/out` and are announced. Raises `ModelpressError` with the step.

    The same seed on the same host gives the same bytes of every artifact that holds no measured number.
    """
    (work / "out").mkdir(exist_ok=True)
    # In the sandbox only `out` and the folder for temporary files can be written to.
    with TemporaryDirectory() as scratch:
        return _Job(request, emit, work, Path(scratch)).run()


@final
class _Job:
    def __init__(self, request: RunJob, emit: Emit, work: Path, scratch: Path) -> None:
        self._request = request
        self._emit_outside = emit
        self._out = work / "out"
        self._scratch = scratch
        self._log: list[str] = []
        self._position = 0
        self._pace = Pace()
        self._checkpoints = CheckpointWriter(self._out, self._emit, request.checkpoint_seconds)

    def run(self) -> Verdict:
        with self._stage("prepare", (0.0, PREPARED)):
            prepared = self._prepare()
        material, reports = self._compress(prepared)
        with self._stage("export", (COMPRESSED, EXPORTED)):
            names = self._export(material)
        papers = Papers(self._request, prepared.description, reports)
        with self._stage("measure", (EXPORTED, 1.0)):
            verdict = self._measure(prepared, material, reports)
        papers.write(self._out, verdict, self._log, names)
        self._announce()
        if bundle := write_bundle(self._out, ONNX, prepared.companions, prepared.description):
            self._emit(bundle)
        return verdict

    def _emit(self, message: Message) -> None:
        if isinstance(message, LogMessage):
            self._log.append(f"{message.level:7} {message.step or ''}: {message.text}")
        self._emit_outside(self._pace.tell(message) if isinstance(message, ProgressMessage) else message)

    def _progress(self, fraction: float, method: str, message: str, step: int | None = None) -> None:
        self._emit(
            ProgressMessage(step=step, method=method, fraction=min(max(fraction, 0.0), 1.0), message=message[:500])
        )

    @contextmanager
    def _stage(self, name: str, span: tuple[float, float]) -> Iterator[Stage]:
        """Tell the states of a step, and name it in the error that ends it."""
        position, stage = self._position, Stage()
        self._position += 1
        self._pace.begin(span)
        # What is drawn in a step follows from the seed and the step alone, wherever this run began.
        torch.manual_seed(seed_of_step(self._request.seed, position))
        self._emit(StepMessage(position=position, name=name, state=StepState.RUNNING))
        start = time.monotonic()
        state = StepState.FAILED
        try:
            yield stage
            state = StepState.SUCCEEDED
            self._pace.end()
        except ModelpressError as error:
            error.step = error.step or name
            raise
        finally:
            stage.seconds = round(time.monotonic() - start, 3)
            told = {"seconds": stage.seconds, "quality": stage.quality}
            self._emit(StepMessage(position=position, name=name, state=state, **told))

    def _prepare(self) -> Prepared:
        """Read model and data; what is missing or in the wrong order is said before anything is computed."""
        request = self._request
        self._progress(0.0, "prepare", "Reading the model and the data")
        if (misplaced := request.recipe.misplaced()) is not None:
            position, why = misplaced
            raise ModelpressError("method_not_applicable", why, step=request.recipe.steps[position].method)
        for spec in request.recipe.steps:
            if request.dataset_spec is None and spec.needed().data and not spec.needed().synthetic:
                raise ModelpressError("missing_data", f"{spec.method} needs a data set.")
        prepared = prepare(request, self._scratch)
        described = prepared.description
        if (clash := find_clash(request.recipe.steps, described, prepared.others.descriptions)) is not None:
            position, why = clash
            raise ModelpressError("method_not_applicable", why, step=request.recipe.steps[position].method)
        text = f"{described.format} model with {described.parameters:,} parameters, {len(described.layers)} layers."
        self._emit(LogMessage(step="prepare", text=text))
        return prepared

    def _compress(self, prepared: Prepared) -> tuple[Material, tuple[Report, ...]]:
        """Take the steps one after the other, from where an earlier run was."""
        steps = self._request.recipe.steps
        recorded = read_plan(self._request, self._emit)
        progressed = self._resume(prepared.material)
        described, others = prepared.description, prepared.others.descriptions
        width = (COMPRESSED - PREPARED) / len(steps)
        for index, spec in enumerate(steps):
            if index >= len(progressed.steps):
                begin = PREPARED + width * index
                context = Context(
                    step=spec.method,
                    index=index,
                    dataset=prepared.dataset,
                    target=self._request.target,
                    constraints=self._request.constraints,
                    seed=self._request.seed,
                    emit=self._emit,
                    span=(begin, begin + width),
                    checkpoint=FileCheckpoint(self._checkpoints, index, progressed.partial),
                    recorded=recorded[index] if recorded else None,
                )
                capability = spec.suits(described, others)
                progressed = self._keep(index, self._take(spec, capability, context, progressed))
            described = spec.leaves(described, others)
        return progressed.material, tuple(step.report for step in progressed.steps)

    def _take(self, spec: Spec, capability: Capability, context: Context, before: Progressed) -> Progressed:
        """The material and what is known of it after one more step."""
        with self._stage(spec.method, context.span) as stage:
            if not capability.ok:
                raise ModelpressError("method_not_applicable", capability.why or "The method does not fit.")
            material, report = before.material.take(spec, context)
            stage.quality = material.tell_quality(context)
        step = FinishedStep(method=spec.method, report=report, seconds=stage.seconds, quality=stage.quality)
        return Progressed(material, (*before.steps, step))

    def _resume(self, material: Material) -> Progressed:
        """Where an earlier run was; at the beginning where there was none, or where its checkpoint cannot be read."""
        resume = self._request.resume
        if resume is None:
            return Progressed(material)
        methods = tuple(spec.method for spec in self._request.recipe.steps)
        try:
            progressed = read_progress(resume, material, methods)
        except ModelpressError as error:
            self._emit(LogMessage(level="warning", text=f"Starting over: {error.detail}"))
            return Progressed(material)
        self._log[:0] = progressed.log
        own = resume.job == self._request.job
        for step in progressed.steps:
            self._tell_taken(step, "" if own else f"Taken from {resume.job}")
        next_step = f", and step {len(progressed.steps) + 1} from where it was" if progressed.partial else ""
        whose = "an earlier attempt" if own else f"{resume.job}, which began in the same way"
        text = f"Going on from {whose}: {len(progressed.steps)} of {len(methods)} steps are done{next_step}."
        self._emit(LogMessage(text=text))
        return progressed

    def _tell_taken(self, step: FinishedStep, message: str) -> None:
        told = {"seconds": step.seconds, "quality": step.quality, "message": message}
        self._emit(StepMessage(position=self._position, name=step.method, state=StepState.SUCCEEDED, **told))
        self._position += 1

    def _keep(self, index: int, progressed: Progressed) -> Progressed:
        """Write a checkpoint, and go on with what can be read from it; without one where it cannot be written."""
        try:
            told = replace(progressed, log=tuple(self._log))
            return replace(progressed, material=self._checkpoints.keep_material(index, told))
        except UNWRITABLE as error:
            self._checkpoints.discard(f"after step {index + 1}", error)
            return progressed

    def _export(self, material: Material) -> tuple[str, ...]:
        width = EXPORTED - COMPRESSED
        names = material.write(
            self._out, lambda share, message: self._progress(COMPRESSED + width * share, "export", message)
        )
        sizes = ", ".join(f"{name} {(self._out / name).stat().st_size:,} B" for name in names)
        self._emit(LogMessage(step="export", text=f"Written and checked: {sizes}."))
        return names

    def _measure(self, prepared: Prepared, material: Material, reports: tuple[Report, ...]) -> Verdict:
        request = self._request
        samples: int | None = max(spec.calibration_samples() for spec in request.recipe.steps)
        if prepared.dataset is not None and samples:
            samples = min(samples, prepared.dataset.count("calibration"))
        return measure_and_judge(
            MeasureRequest(
                original=prepared.original,
                original_bytes=sum(file.bytes for file in request.model),
                result=self._out / ONNX,
                dataset=prepared.dataset,
                target=request.target,
                constraints=request.constraints,
                layers=material.layers(reports),
                reproduce=reproduce_of(request, self._out / ONNX),
                lock_path=Path(request.lock_path),
                findings=tuple(finding for report in reports for finding in report.findings),
                calibration_samples=samples or None,
                seed=request.seed,
                sizes=prepared.description.counted_at if prepared.description.mode == "onnx_only" else {},
            ),
            emit=self._emit,
            progress=lambda share, message: self._progress(EXPORTED + (1 - EXPORTED) * share, "measure", message),
        )

    def _announce(self) -> None:
        for path in sorted(path for path in self._out.iterdir() if path.is_file()):
            kind = "log" if path.name == "log.txt" else path.name
            self._emit(ArtifactMessage(artifact_kind=kind, files=(ArtifactFile(path=path.name, filename=path.name),)))
