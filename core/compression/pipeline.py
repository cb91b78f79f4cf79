"""Runs a job: reads the model, takes the recipe's steps, writes the files, measures them, and gives the verdict."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import torch
from torch import Tensor

from core.compression.bundle import write_bundle
from core.compression.checks import check_step
from core.compression.context import Context, Emit
from core.compression.layers import list_layers
from core.compression.method import Report
from core.compression.papers import Papers, reproduce_of
from core.compression.registry import method_of
from core.compression.yardstick import Yardstick, choosing_split, input_batches
from core.data.dataset import Dataset, open_dataset
from core.data.source import DataFile, data_files
from core.data.synthetic import synthesise
from core.description import ModelDescription, SplitName
from core.errors import ModelpressError
from core.measure.verdict import MeasureRequest, measure_and_judge
from core.messages import ArtifactFile, ArtifactMessage, LogMessage, Message, ProgressMessage, RunJob, StepMessage
from core.network.export import export_onnx, export_pt2, export_safetensors
from core.network.export_check import noise_inputs, relative_difference
from core.network.fold import fold_batch_norm
from core.network.gate_onnx import open_onnx
from core.network.hf_folder import companions
from core.network.inspect import inspect, read
from core.network.network import Network
from core.network.onnx_outside import save_onnx
from core.network.sampling import integer_limits, longest_text
from core.network.upload import Files, staged_by_name
from core.states import StepState
from core.verdict import Verdict

# Where each part of a job ends, as a fraction of the whole.
PREPARED, COMPRESSED, EXPORTED = 0.1, 0.55, 0.65
PROBES = 8
# Samples on which the quality after each step is told.
QUALITY_SAMPLES = 512
FOLDING_TOLERANCE = 1e-4

ONNX, PT2, SAFETENSORS = "model.onnx", "model.pt2", "model.safetensors"


@dataclass(frozen=True)
class Prepared:
    """What all later parts work on: `original` is the uploaded network as ONNX, `network` has no batch norms."""

    description: ModelDescription
    network: Network
    original: Path
    dataset: Dataset | None
    probes: tuple[Tensor, ...]
    companions: Files


@dataclass
class Stage:
    """What a part of the job leaves to be told when it ends."""

    quality: float | None = None


def run(request: RunJob, emit: Emit, work: Path) -> Verdict:
    """Run a job in the folder `work`; files go to `work/out` and are announced. Raises `ModelpressError` with the step.

    The same seed on the same host gives the same bytes of every artifact that holds no measured number.
    """
    torch.manual_seed(request.seed)
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

    def run(self) -> Verdict:
        with self._stage("prepare"):
            prepared = self._prepare()
        network, reports = self._compress(prepared)
        with self._stage("export"):
            self._export(network, prepared.probes)
        papers = Papers(self._request, prepared.description, reports)
        with self._stage("measure"):
            verdict = self._measure(prepared, network, reports)
        papers.write(self._out, verdict, self._log)
        self._announce()
        if bundle := write_bundle(self._out, ONNX, prepared.companions, prepared.description):
            self._emit(bundle)
        return verdict

    def _emit(self, message: Message) -> None:
        if isinstance(message, LogMessage):
            self._log.append(f"{message.level:7} {message.step or ''}: {message.text}")
        self._emit_outside(message)

    def _progress(self, fraction: float, method: str, message: str, step: int | None = None) -> None:
        self._emit(
            ProgressMessage(step=step, method=method, fraction=min(max(fraction, 0.0), 1.0), message=message[:500])
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[Stage]:
        """Tell the states of a step, and name it in the error that ends it."""
        position, stage = self._position, Stage()
        self._position += 1
        self._emit(StepMessage(position=position, name=name, state=StepState.RUNNING))
        start = time.monotonic()
        state = StepState.FAILED
        try:
            yield stage
            state = StepState.SUCCEEDED
        except ModelpressError as error:
            error.step = error.step or name
            raise
        finally:
            seconds = round(time.monotonic() - start, 3)
            self._emit(StepMessage(position=position, name=name, state=state, seconds=seconds, quality=stage.quality))

    def _prepare(self) -> Prepared:
        """Read the model and the data, fold batch norms, and see that nothing was lost by it."""
        request = self._request
        files = staged_by_name(request.model)
        self._progress(0.0, "prepare", "Reading the model")
        description = inspect(files, request.seed)
        read_network = read(files, request.seed)
        network = fold_batch_norm(read_network)
        # The tokenizer of a Hugging Face folder may be inside a zip.
        beside = companions(files, self._scratch / "companions")
        dataset = self._open_data(network, beside)
        probes = _probes(network, dataset)
        _check_folding(read_network, network, probes)
        original = Path(request.model[0].path)
        if description.format != "onnx":
            original = self._scratch / "original.onnx"
            export_onnx(network, original, probes=probes)
        elif len(files) > 1:
            # The uploaded files lie here under other names than the model says.
            original = self._scratch / "original.onnx"
            save_onnx(open_onnx(files), original)
        text = (
            f"{description.format} model with {description.parameters:,} parameters, {len(description.layers)} layers."
        )
        self._emit(LogMessage(step="prepare", text=text))
        return Prepared(description, network, original, dataset, probes, beside)

    def _open_data(self, network: Network, beside: Files) -> Dataset:
        """The data set of the job; without one inputs that are drawn, where every step can do with them."""
        request = self._request
        if request.dataset_spec is None:
            for spec in request.recipe.steps:
                if spec.needs.data and not spec.needs.synthetic:
                    raise ModelpressError("missing_data", f"{spec.method} needs a data set.")
            names = (tensor.name for tensor in network.inputs)
            limits = dict(zip(names, integer_limits(network.graph), strict=True))
            return synthesise(network.inputs, limits, request.seed, sizes=network.sizes)
        self._progress(PREPARED / 2, "prepare", "Reading the data")
        return open_dataset(
            data_files(request.dataset),
            request.dataset_spec,
            network.inputs,
            outputs=network.outputs,
            longest=longest_text(network),
            beside=[*(DataFile(path, name) for name, path in beside.items()), *data_files(request.model)],
        )

    def _compress(self, prepared: Prepared) -> tuple[Network, tuple[Report, ...]]:
        network, reports = prepared.network, []
        steps = self._request.recipe.steps
        for index, spec in enumerate(steps):
            width = (COMPRESSED - PREPARED) / len(steps)
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
            )
            with self._stage(spec.method) as stage:
                capability = spec.requires(prepared.description)
                if not capability.ok:
                    raise ModelpressError("method_not_applicable", capability.why or "The method does not fit.")
                changed, report = method_of(spec).apply(network, spec, context)
                check_step(network, changed, report, prepared.probes)
                stage.quality = self._tell_quality(spec.method, prepared, changed)
            network = changed
            reports.append(report)
        return network, tuple(reports)

    def _tell_quality(self, name: str, prepared: Prepared, network: Network) -> float | None:
        if prepared.dataset is None:
            return None
        split = choosing_split(prepared.dataset)
        yardstick = Yardstick(prepared.network, prepared.dataset, split=split, limit=QUALITY_SAMPLES)
        score = yardstick.score(network)
        text = (
            f"On {yardstick.samples} {split} samples the quality was {yardstick.original.quality:.4f} and is "
            f"{score.quality:.4f}; signal to noise of the output is {score.sqnr_db:.1f} dB."
        )
        self._emit(LogMessage(step=name, text=text))
        return score.quality

    def _export(self, network: Network, probes: tuple[Tensor, ...]) -> None:
        self._progress(COMPRESSED, "export", "Writing and checking the ONNX file")
        export_onnx(network, self._out / ONNX, probes=probes)
        self._progress((COMPRESSED + EXPORTED) / 2, "export", "Writing and checking the .pt2 file")
        export_pt2(network, self._out / PT2, probes=probes)
        export_safetensors(network, self._out / SAFETENSORS)
        sizes = ", ".join(f"{name} {(self._out / name).stat().st_size:,} B" for name in (ONNX, PT2, SAFETENSORS))
        self._emit(LogMessage(step="export", text=f"Written, read again and compared: {sizes}."))

    def _measure(self, prepared: Prepared, network: Network, reports: tuple[Report, ...]) -> Verdict:
        request = self._request
        samples = max((spec.calibration.samples for spec in request.recipe.steps), default=0)
        if prepared.dataset is not None:
            samples = min(samples, prepared.dataset.count("calibration"))
        return measure_and_judge(
            MeasureRequest(
                original=prepared.original,
                original_bytes=sum(file.bytes for file in request.model),
                result=self._out / ONNX,
                dataset=prepared.dataset,
                target=request.target,
                constraints=request.constraints,
                layers=list_layers(prepared.network, network, reports),
                reproduce=reproduce_of(request, self._out / ONNX),
                lock_path=Path(request.lock_path),
                findings=tuple(finding for report in reports for finding in report.findings),
                calibration_samples=samples,
                seed=request.seed,
            ),
            emit=self._emit,
            progress=lambda share, message: self._progress(EXPORTED + (1 - EXPORTED) * share, "measure", message),
        )

    def _announce(self) -> None:
        for path in sorted(self._out.iterdir()):
            kind = "log" if path.name == "log.txt" else path.name
            self._emit(ArtifactMessage(artifact_kind=kind, files=(ArtifactFile(path=path.name, filename=path.name),)))


def _probes(network: Network, dataset: Dataset | None) -> tuple[Tensor, ...]:
    """A few calibration samples where there are some, noise where not: what files and steps are compared on."""
    if dataset is not None:
        split: SplitName = "calibration" if dataset.count("calibration") else "evaluation"
        given = next(iter(input_batches(network, dataset, split, limit=PROBES, batch=PROBES)), None)
        if given is not None:
            return given
    return noise_inputs(network)


def _check_folding(before: Network, after: Network, probes: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        wanted, found = before.graph(*probes), after.graph(*probes)
    pairs = [(wanted, found)] if isinstance(wanted, Tensor) else list(zip(wanted, found, strict=True))
    for one, other in pairs:
        if not relative_difference(other.numpy(), one.numpy()) <= FOLDING_TOLERANCE:
            raise ModelpressError("parity_lost", "Folding the batch norms into their layers changed the outputs.")
