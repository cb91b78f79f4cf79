"""`quantize.onnx` beside onnxruntime's own quantizer called directly: size, quality, time; and the dry run's ranges.

    OMP_NUM_THREADS=1 python -m benchmarks.quantize_onnx --shared ../shared [--packages FOLDER] [NETWORK ...]

FOLDER is where `pip install --no-deps --target FOLDER silero-vad==6.2.3` has put a file that is no network (mode
`onnx_only`), which is compared on inputs that are drawn. Jobs run in processes of their own, whose seconds and
peak memory stand beside what the dry run had said. Quality is from the files in onnxruntime with its paired 95 %
interval; each file is timed against the original, interleaved, with the interval of the ratio.
"""

import argparse
import logging
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.path_int8 import NETWORKS, staged
from core.compression.pipeline import run
from core.data.dataset import Dataset, open_dataset
from core.data.synthetic import Known, synthesise
from core.description import DatasetDescription, DatasetSpec, ModelDescription, SplitArrays, SplitDescription
from core.errors import ModelpressError
from core.measure.feeds import make_feed
from core.measure.host import describe_host
from core.measure.latency import compare_latency
from core.measure.quality import compare_quality
from core.measure.runtime import open_session
from core.measure.size import measure_size
from core.messages import RunJob
from core.network.inspect import inspect
from core.resources.job import JobCreate, Range
from core.services import estimates
from core.specs.onnx_quantize import OnnxQuantization
from core.specs.recipe import Constraints, Recipe, Target

FILES = {
    "silero_vad_16k_op15": "silero_vad/data/silero_vad_16k_op15.onnx",
    "silero_vad": "silero_vad/data/silero_vad.onnx",
}
DEFAULT = ("lenet5_fashion", "resnet20_cifar10", "vit_fashion")
MODES = ("static", "dynamic")
SAMPLES = 128
BATCHES = (1, 32)
RUNS = 200
U8S8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}


@dataclass(frozen=True)
class Stand:
    """A model and what it is compressed and judged with."""

    name: str
    model: Path
    described: ModelDescription
    dataset: Dataset
    data: Path | None
    spec: DatasetSpec | None

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes at which files are timed."""
        return BATCHES if self.data is not None else BATCHES[:1]


@dataclass(frozen=True)
class Ran:
    """What a job took, and what it said."""

    sentence: str
    findings: tuple[str, ...]
    seconds: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description="quantize.onnx beside onnxruntime's quantizer.")
    parser.add_argument("networks", nargs="*", default=[*DEFAULT, *FILES], help=f"of {', '.join((*NETWORKS, *FILES))}")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--packages", type=Path, help="a folder with silero_vad")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for stand in stands(asked.networks, asked.shared, asked.packages):
        print(f"{stand.name} ({stand.described.mode}), {measure_size(stand.model).stripped:,} B", flush=True)
        for mode in MODES:
            with tempfile.TemporaryDirectory() as folder:
                compare(stand, mode, Path(folder))
    print(f"on {describe_host().cpu}, one thread, {RUNS} runs, load {os.getloadavg()[0]:.1f} at the end")


def stands(names: list[str], shared: Path, packages: Path | None) -> Iterator[Stand]:
    splits = {"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")}
    for name in names:
        if name in FILES and packages is not None:
            described = inspect(packages / FILES[name])
            dataset = synthesise(described.inputs, Known(sizes=described.counted_at), 0)
            yield Stand(name, packages / FILES[name], described, dataset, None, None)
        elif name in NETWORKS:
            model = shared / "models" / f"{name}.onnx"
            described = inspect(model)
            data, mapping = NETWORKS[name]
            spec = DatasetSpec(task="classification", inputs={"x": mapping}, splits=splits)
            dataset = open_dataset([shared / "data" / data], spec, described.inputs, outputs=described.outputs)
            yield Stand(name, model, described, dataset, shared / "data" / data, spec)


def compare(stand: Stand, mode: str, folder: Path) -> None:
    """The job's file, and the files that onnxruntime's quantizer makes when it is called directly."""
    recipe = Recipe(steps=(OnnxQuantization(mode=mode, calibration={"samples": SAMPLES}),))
    capability = recipe.steps[0].requires(stand.described)
    if not capability.ok:
        print(f"  {mode}: refused. {capability.why}")
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        ran = pool.submit(work_off, stand.model, stand.data, stand.spec, recipe, folder).result()
    print(f"  {mode}: {ran.sentence} {' '.join(ran.findings)}")
    print(f"    {say_estimates(stand, recipe, capability.layers, ran, folder / 'out' / 'model.onnx')}", flush=True)
    tell("quantize.onnx", folder / "out" / "model.onnx", stand)
    for name, path in call_directly(stand, mode, folder):
        tell(name, path, stand)


def work_off(model: Path, data: Path | None, spec: DatasetSpec | None, recipe: Recipe, folder: Path) -> Ran:
    """A whole job, in a process that does nothing else."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    job = RunJob(
        job="job_benchmark",
        recipe=recipe,
        target=Target(batch_sizes=BATCHES if data is not None else BATCHES[:1]),
        constraints=Constraints(),
        seed=0,
        model=(staged(model),),
        dataset=() if data is None else (staged(data),),
        dataset_spec=spec,
        lock_path=str(folder / "lock"),
    )
    began = time.monotonic()
    verdict = run(job, lambda message: None, folder)  # noqa: ARG005  nobody listens
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    codes = tuple(finding.code for finding in verdict.findings)
    return Ran(verdict.sentence, codes, time.monotonic() - began, peak)


def call_directly(stand: Stand, mode: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """As its documentation says: simplified first, defaults and 8-bit activations with signed weights by channel."""
    prepared = folder / "prepared.onnx"
    try:
        quant_pre_process(stand.model, prepared, skip_symbolic_shape=True)
        for name, options in (("direct, default", {}), ("direct, u8s8 by channel", U8S8)):
            path = folder / f"{name.replace(' ', '_')}.onnx"
            if mode == "static":
                quantize_static(prepared, path, Reader(stand.dataset), **options)
            elif options:
                quantize_dynamic(prepared, path, per_channel=True, weight_type=QuantType.QInt8)
            else:
                quantize_dynamic(prepared, path)
            yield name, path
    except (ValueError, RuntimeError, KeyError) as error:
        print(f"    direct: {type(error).__name__}: {str(error).splitlines()[0][:120]}")


class Reader(CalibrationDataReader):
    """The calibration samples that the job sees."""

    def __init__(self, dataset: Dataset) -> None:
        batches = dataset.batches("calibration", 32, SAMPLES)
        self._feeds = iter([{name: value.numpy() for name, value in batch.inputs.items()} for batch in batches])

    def get_next(self) -> dict[str, object] | None:
        """The next batch, None after the last."""
        return next(self._feeds, None)


def tell(name: str, path: Path, stand: Stand) -> None:
    """One line for a file."""
    try:
        quality = compare_quality(stand.model, path, stand.dataset, threads=1)
        speed = []
        for batch in stand.batches:
            feed = make_feed(open_session(stand.model, 1), stand.dataset, batch, stand.described.counted_at)
            found = compare_latency(stand.model, path, feed, threads=1, runs=RUNS).speedup
            speed.append(f"b{batch} {found.ratio:.2f}x [{found.low:.2f} {found.high:.2f}]")
    except ModelpressError as error:
        print(f"    {name:24} {error.code}: {error.detail[:120]}")
        return
    size, before = measure_size(path).stripped, measure_size(stand.model).stripped
    change = quality.change
    print(
        f"    {name:24} {size:>10,} B {before / size:.2f}x  {quality.result.metric} {quality.result.value:.4f} "
        f"({change.delta:+.4f} [{change.low:+.4f} {change.high:+.4f}])  {'  '.join(speed)}",
        flush=True,
    )


def say_estimates(stand: Stand, recipe: Recipe, chosen: tuple[str, ...], ran: Ran, result: Path) -> str:
    """The dry run's ranges and what was measured; a figure outside of its range has a mark."""
    asked = JobCreate(model="m", dataset="d", recipe=recipe, target=Target(batch_sizes=BATCHES))
    data = None
    if stand.spec is not None:
        splits = {
            split: SplitDescription(samples=stand.dataset.count(split), labelled=True)
            for split in ("calibration", "evaluation")
        }
        data = DatasetDescription(format="npz", task="classification", inputs=(), splits=splits)
    size = 0 if stand.data is None else stand.data.stat().st_size
    seconds = estimates.estimate_seconds(asked, stand.described, data, 1)
    memory = estimates.estimate_memory(asked, stand.described, size)
    written = estimates.estimate_bytes(asked, stand.described, frozenset(chosen))
    return (
        f"seconds {within(seconds, ran.seconds)}, memory {within(memory, ran.peak_bytes)}, "
        f"bytes {within(written, result.stat().st_size)}"
    )


def within(span: Range, value: float) -> str:
    mark = "" if span.low <= value <= span.high else " (!)"
    return f"{value:,.0f} of {span.low:,.0f}..{span.high:,.0f}{mark}"


if __name__ == "__main__":
    main()
