"""`quantize.linear` beside onnxruntime's `quantize_static` on the same files, samples and machine, in one run.

    OMP_NUM_THREADS=1 python benchmarks/path_int8.py --shared ../shared --out path_int8.json

Bytes are of files stripped alike, quality is from the files in onnxruntime with its paired 95 % interval, latency is
interleaved in drawn orders over blocks of fresh sessions, memory is planned and measured as in a verdict.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from core.compression.pipeline import run
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, InputMapping, SplitArrays
from core.measure.feeds import make_feed
from core.measure.host import describe_host
from core.measure.memory import planned_peak_bytes, probe_memory
from core.measure.quality import compare_quality
from core.measure.runtime import open_session
from core.measure.size import measure_size
from core.messages import RunJob, StagedFile
from core.network.inspect import read
from core.specs.linear import LinearQuantization
from core.specs.recipe import Constraints, Recipe, Target

SAMPLES = 512
BATCHES = (1, 32)
BLOCKS, RUNS = 20, 10
BURST_NS = 2_000_000
CIFAR = InputMapping(layout="NHWC", scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
FASHION = InputMapping(layout="NHW", scale=1 / 255, mean=(0.5,), std=(0.5,))
NETWORKS = {
    "lenet5_fashion": ("fashion_mnist.npz", FASHION),
    "lenet300_fashion": ("fashion_mnist.npz", FASHION),
    "resnet20_cifar10": ("cifar10_small.npz", CIFAR),
    "vit_fashion": ("fashion_mnist.npz", FASHION),
    "dwcnn_fashion": ("fashion_mnist.npz", FASHION),
}
DEFAULT = ("lenet5_fashion", "lenet300_fashion", "resnet20_cifar10")
U8S8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
PEERS = {
    "ort default": {},
    "ort u8s8 per channel": U8S8,
    "ort u8s8 reduce_range": {**U8S8, "reduce_range": True},
}


class Reader(CalibrationDataReader):
    """Calibration samples, the same that `quantize.linear` sees."""

    def __init__(self, dataset: Dataset) -> None:
        batches = dataset.batches("calibration", 64, SAMPLES)
        self._feeds = iter([{name: value.numpy() for name, value in batch.inputs.items()} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        return next(self._feeds, None)


def staged(path: Path) -> StagedFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return StagedFile(path=str(path), filename=path.name, sha256=digest, bytes=len(content))


def make_files(model: Path, data: Path, spec: DatasetSpec, work: Path) -> tuple[dict[str, Path], Dataset]:
    files = {"original": model}
    job = RunJob(
        job="job_benchmark",
        recipe=Recipe(steps=(LinearQuantization(),)),
        target=Target(),
        constraints=Constraints(),
        seed=0,
        model=(staged(model),),
        dataset=(staged(data),),
        dataset_spec=spec,
        lock_path=str(work / "lock"),
    )
    run(job, lambda message: None, work)  # noqa: ARG005  nobody listens
    files["modelpress"] = work / "out" / "model.onnx"
    network = read(model)
    dataset = open_dataset([data], spec, network.inputs, outputs=network.outputs)
    prepared = work / "prepared.onnx"
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    for name, options in PEERS.items():
        files[name] = work / f"{name.replace(' ', '_')}.onnx"
        quantize_static(prepared, files[name], Reader(dataset), **options)
    return files, dataset


def time_files(files: dict[str, Path], dataset: Dataset, batch: int) -> dict[str, list[list[float]]]:
    """Milliseconds by file, block and run; each block has fresh sessions, made and called in orders drawn anew.

    What a session is slow by depends on where its memory fell and on who ran before it, so neither may be fixed.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in files}
    drawn = random.Random(0)
    names = list(files)
    feed = make_feed(open_session(files["original"], 1), dataset, batch)
    for _ in range(BLOCKS):
        drawn.shuffle(names)
        sessions = {name: open_session(files[name], 1) for name in names}
        calls = {}
        for name, session in sessions.items():
            for _ in range(5):
                session.run(None, feed)
            start = time.perf_counter_ns()
            session.run(None, feed)
            calls[name] = max(BURST_NS // max(time.perf_counter_ns() - start, 1), 1)
            times[name].append([])
        for _ in range(RUNS):
            drawn.shuffle(names)
            for name in names:
                session = sessions[name]
                # The first call pays for what the others drove out of the caches.
                session.run(None, feed)
                start = time.perf_counter_ns()
                for _ in range(calls[name]):
                    session.run(None, feed)
                times[name][-1].append((time.perf_counter_ns() - start) / calls[name] / 1e6)
    return times


def interval(before: list[list[float]], after: list[list[float]]) -> tuple[float, float, float]:
    """Median over the blocks of the ratio of their medians, with a 95 % interval from a bootstrap over blocks."""
    ratios = np.median(before, axis=1) / np.median(after, axis=1)
    drawn = np.random.default_rng(0).choice(ratios, (1000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def compare(name: str, shared: Path) -> list[dict[str, object]]:
    data, mapping = NETWORKS[name]
    splits = {"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")}
    spec = DatasetSpec(task="classification", inputs={"x": mapping}, splits=splits)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        files, dataset = make_files(shared / "models" / f"{name}.onnx", shared / "data" / data, spec, Path(folder))
        times = {batch: time_files(files, dataset, batch) for batch in BATCHES}
        memory = dict(zip(files, probe_memory(tuple(files.values()), batch=32, threads=1), strict=True))
        stripped = {method: measure_size(path).stripped for method, path in files.items()}
        for method, path in files.items():
            quality = compare_quality(files["original"], path, dataset, threads=1)
            feed = make_feed(open_session(path, 1), dataset, 1)
            rows.append(
                {
                    "network": name,
                    "method": method,
                    "bytes_stripped": stripped[method],
                    "size_ratio": stripped["original"] / stripped[method],
                    "accuracy": quality.result.value,
                    "delta": [quality.change.delta, quality.change.low, quality.change.high],
                    "sqnr_db": quality.sqnr_db,
                    "median_ms": {batch: float(np.median(times[batch][method])) for batch in BATCHES},
                    "speedup": {batch: interval(times[batch]["original"], times[batch][method]) for batch in BATCHES},
                    "planned_bytes": planned_peak_bytes(path, feed),
                    "peak_rss_bytes": memory[method].peak_rss_bytes,
                }
            )
    return rows


def show(row: dict[str, object]) -> str:
    delta, speed = row["delta"], row["speedup"]
    times = "  ".join(f"b{batch} {r:.2f}x [{low:.2f} {high:.2f}]" for batch, (r, low, high) in speed.items())
    return (
        f"{row['network']:17} {row['method']:22} {row['bytes_stripped']:>9,} B {row['size_ratio']:.2f}x  "
        f"{row['accuracy']:.4f} ({delta[0] * 100:+.2f} [{delta[1] * 100:+.2f} {delta[2] * 100:+.2f}] pt)  {times}  "
        f"planned {row['planned_bytes']:,}  rss {row['peak_rss_bytes'] / 1e6:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(DEFAULT), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELPRESS_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("path_int8.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows: list[dict[str, object]] = []
    for name in arguments.networks:
        for row in compare(name, arguments.shared):
            rows.append(row)
            print(show(row), flush=True)
    load = os.getloadavg()[0]
    host = describe_host()
    report = {"cpu": host.cpu, "flags": host.flags, "load": load, "runs": BLOCKS * RUNS, "rows": rows}
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"on {host.cpu}, one thread, load {load:.1f} at the end; {BLOCKS * RUNS} runs each; written to {arguments.out}"
    )


if __name__ == "__main__":
    main()
