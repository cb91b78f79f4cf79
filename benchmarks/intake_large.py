"""Uploads larger than a runner's memory, through the real stack: peak memory of API, supervisor, runner.

    python -m benchmarks.intake_large --part data --bytes 3000000000 --memory 1000000000
    python -m benchmarks.intake_large --part onnx --bytes 4000000000 [--job-memory 16000000000]
    python -m benchmarks.intake_large --part texts --rows 1000000

`data`: MNIST samples as fp32 with noise, repeated to `--bytes`, as .npz and as .safetensors; inspected, then used by an
int8 job of the demo's LeNet-5 under the same limit. `onnx`: a table, linear layers and random weights of `--bytes`
altogether, as an .onnx file with two files of data; inspected under the default limit of an inspection, and with
`--job-memory` quantized to int8 without data under that limit. `texts`: rows of 20 random words with the name of one
of four classes, as CSV, JSON lines and parquet, inspected under the default limit. Memory is what a process holds
without pages of mapped files, which the kernel takes back, sampled every 20 ms; of runner and supervisor that of all
their processes.
"""

import argparse
import itertools
import json
import os
import struct
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import psutil
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from core.description import DatasetSpec, InputMapping, SplitArrays
from core.resources.job import JobCreate
from core.resources.model import DatasetCreate, ModelCreate
from core.specs.calibration import Calibration
from core.specs.linear import LinearQuantization
from core.specs.recipe import Limits, Recipe
from launch.stack import Options
from launch.supervisor import Supervisor
from modelpress.client import Client
from workers.process import resident

DEMO = Path(__file__).parents[1] / "demo"
MIB = 1 << 20
SAMPLE = (1, 28, 28)
BLOCK_ROWS = 4096
SPEC = DatasetSpec(
    task="classification",
    inputs={"x": InputMapping(layout="NCHW")},
    splits={"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")},
)
Arrays = dict[str, tuple[str, tuple[int, ...], Callable[[], Iterator[bytes]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Uploads larger than the memory of a runner.")
    parser.add_argument("--part", choices=["data", "onnx", "texts"], default="data")
    parser.add_argument("--bytes", type=int, default=3_000_000_000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of `texts`")
    parser.add_argument("--memory", type=int, help="limit of an inspection; `data`: 1 GB, `onnx`: the default")
    parser.add_argument("--job-memory", type=int, help="limit of the job of `onnx`; without it there is none")
    asked = parser.parse_args()
    if asked.part == "onnx" and asked.bytes < 1_000_000_000:
        parser.error("the layers alone have half a gigabyte: let --bytes be 1000000000 or more")
    if asked.memory is None and asked.part == "data":
        asked.memory = 1_000_000_000
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        limit = {} if asked.memory is None else {"MODELPRESS_INSPECT_MEMORY_BYTES": str(asked.memory)}
        with Supervisor(Options(home=Path(name) / "home", port=None, extra=limit)) as stack:
            key = stack.start(key_name="benchmark").key
            assert key is not None
            with Client(stack.url, key) as client:
                if asked.part == "data":
                    measure_data(client, Path(name), asked.bytes, asked.memory)
                elif asked.part == "texts":
                    measure_texts(client, Path(name), asked.rows)
                else:
                    measure_onnx(client, Path(name), asked.bytes, asked.job_memory)


def measure_data(client: Client, folder: Path, size: int, memory: int) -> None:
    """Both formats: upload, inspection and a job."""
    model = client.inspected(client.create_model(ModelCreate(uploads=(client.upload(DEMO / "lenet5.onnx").id,))))
    arrays = make_arrays(size)
    for suffix, write in ((".npz", write_npz), (".safetensors", write_safetensors)):
        path = folder / f"large{suffix}"
        write(path, arrays)
        told = f"{path.name} {path.stat().st_size / 1e9:.2f} GB, limit {memory / 1e9:.2f} GB"
        with peaks(f"{told}: upload"):
            upload = client.upload(path)
        path.unlink()
        with peaks(f"{told}: inspection"):
            asked = DatasetCreate.model_validate({**SPEC.model_dump(mode="json"), "uploads": [upload.id]})
            dataset = client.inspected(client.create_dataset(asked))
        assert dataset.error is None, dataset.error
        print("  ", {name: split.samples for name, split in dataset.splits.items()}, *dataset.warnings)
        with peaks(f"{told}: job"):
            order = JobCreate(
                model=model.id,
                dataset=dataset.id,
                recipe=Recipe(steps=(LinearQuantization(),)),
                limits=Limits(memory_bytes=memory),
            )
            identifier = client.create_job(order).id
            for _ in client.follow(identifier):
                pass
        job = client.job(identifier)
        print("  ", job.state.value, job.error or (job.verdict.sentence if job.verdict else ""))


def measure_texts(client: Client, folder: Path, rows: int) -> None:
    """Upload and inspection of each format of tables."""
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = folder / f"texts{suffix}"
        write_texts(path, rows)
        told = f"{path.name} {rows:,} rows, {path.stat().st_size / 1e6:.0f} MB"
        with peaks(f"{told}: upload"):
            upload = client.upload(path)
        path.unlink()
        with peaks(f"{told}: inspection"):
            asked = DatasetCreate(task="classification", uploads=(upload.id,))
            dataset = client.inspected(client.create_dataset(asked))
        assert dataset.error is None, dataset.error
        print("  ", {name: split.samples for name, split in dataset.splits.items()}, *dataset.warnings)


def write_texts(path: Path, rows: int) -> None:
    """A table with the columns `text` and `label`."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    made = (
        {"text": " ".join(words[chosen]), "label": "abcd"[label]}
        for _ in range(0, rows, BLOCK_ROWS)
        for chosen, label in zip(
            rng.integers(0, len(words), (BLOCK_ROWS, 20)), rng.integers(0, 4, BLOCK_ROWS), strict=True
        )
    )
    table = itertools.islice(made, rows)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(table)), path)
        return
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("text,label\n")
            file.writelines(f"{row['text']},{row['label']}\n" for row in table)
        else:
            file.writelines(json.dumps(row) + "\n" for row in table)


def measure_onnx(client: Client, folder: Path, size: int, memory: int | None) -> None:
    """Upload, inspection, and a job where `memory` is given."""
    paths = write_onnx(folder, size)
    total = sum(path.stat().st_size for path in paths)
    told = f"{len(paths)} files, {total / 1e9:.2f} GB"
    with peaks(f"{told}: upload"):
        uploads = tuple(client.upload(path).id for path in paths)
    for path in paths:
        path.unlink()
    with peaks(f"{told}: inspection"):
        model = client.inspected(client.create_model(ModelCreate(uploads=uploads)))
    print("  ", model.state.value, model.mode, f"{model.parameters or 0:,} parameters", model.error or model.parity)
    if memory is None or model.error is not None:
        return
    recipe = Recipe(steps=(LinearQuantization(method="quantize.linear", calibration=Calibration(samples=32)),))
    limits = Limits(memory_bytes=memory, minutes=120)
    with peaks(f"{told}: job, limit {memory / 1e9:.2f} GB"):
        identifier = client.create_job(JobCreate(model=model.id, recipe=recipe, limits=limits)).id
        for _ in client.follow(identifier):
            pass
    job = client.job(identifier)
    print("  ", job.state.value, job.error or (job.verdict.sentence if job.verdict else ""))


def write_onnx(folder: Path, size: int) -> list[Path]:
    """A table of words and linear layers of random numbers, `size` bytes altogether; the weights in two files."""
    width, inner = 4096, 16384
    pairs = max((3 * size // 4) // (4 * 2 * width * inner), 1)
    words = (size - 4 * pairs * 2 * width * inner) // (4 * width) // 1024 * 1024
    rng = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []
    files = [folder / name for name in ("words.bin", "layers.bin")]

    def add(name: str, shape: tuple[int, int], path: Path) -> None:
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        with path.open("ab") as file:
            entries = {"location": path.name, "offset": file.tell(), "length": 4 * shape[0] * shape[1]}
            for _ in range(0, shape[0], 1024):
                block = rng.standard_normal((1024, shape[1]), np.float32)
                file.write((block / np.sqrt(np.float32(shape[0]))).tobytes())
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)

    add("words", (words, width), files[0])
    nodes = [onnx.helper.make_node("Gather", ["words", "ids"], ["h0"])]
    for pair in range(pairs):
        path = files[1]
        add(f"block.{pair}.up.weight", (width, inner), path)
        add(f"block.{pair}.down.weight", (inner, width), path)
        nodes += [
            onnx.helper.make_node("MatMul", [f"h{pair}", f"block.{pair}.up.weight"], [f"u{pair}"]),
            onnx.helper.make_node("Relu", [f"u{pair}"], [f"r{pair}"]),
            onnx.helper.make_node("MatMul", [f"r{pair}", f"block.{pair}.down.weight"], [f"d{pair}"]),
            onnx.helper.make_node("Add", [f"h{pair}", f"d{pair}"], [f"h{pair + 1}"]),
        ]
    nodes.append(onnx.helper.make_node("Identity", [f"h{pairs}"], ["features"]))
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", 2])
    features = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 2, width])
    graph = onnx.helper.make_graph(nodes, "large", [ids], [features], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "large.onnx"
    path.write_bytes(model.SerializeToString())
    return [path, *files]


def make_arrays(size: int) -> Arrays:
    """Samples and labels by name: type, shape, and a way to write them block by block."""
    with np.load(DEMO / "mnist.npz") as demo:
        train, labels = demo["x_train"], demo["y_train"].astype(np.int64)
        test, test_labels = demo["x_test"], demo["y_test"].astype(np.int64)
    rows = size // (4 * int(np.prod(SAMPLE)))

    def images(source: NDArray[np.uint8], count: int, seed: int) -> Iterator[bytes]:
        for start in range(0, count, BLOCK_ROWS):
            rng = np.random.default_rng((seed, start))
            chosen = source[np.arange(start, min(start + BLOCK_ROWS, count)) % len(source)].astype(np.float32)
            chosen += rng.normal(scale=4, size=chosen.shape).astype(np.float32)
            yield ((chosen / 255 - 0.5) / 0.5).astype("<f4").tobytes()

    return {
        "x_train": ("F32", (rows, *SAMPLE), lambda: images(train, rows, 0)),
        "y_train": ("I64", (rows,), lambda: iter([np.resize(labels, rows).astype("<i8").tobytes()])),
        "x_test": ("F32", (len(test), *SAMPLE), lambda: images(test, len(test), 1)),
        "y_test": ("I64", (len(test),), lambda: iter([test_labels.astype("<i8").tobytes()])),
    }


def write_npz(path: Path, arrays: Arrays) -> None:
    """As `numpy.savez` would, without holding the arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, (kind, shape, blocks) in arrays.items():
            head = BytesIO()
            descr = {"F32": "<f4", "I64": "<i8"}[kind]
            np.lib.format.write_array_header_1_0(head, {"descr": descr, "fortran_order": False, "shape": shape})
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                entry.write(head.getvalue())
                for block in blocks():
                    entry.write(block)


def write_safetensors(path: Path, arrays: Arrays) -> None:
    """As `safetensors` would, without holding the arrays."""
    header, end = {}, 0
    for name, (kind, shape, _) in arrays.items():
        begin, end = end, end + int(np.prod(shape)) * {"F32": 4, "I64": 8}[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, blocks in arrays.values():
            file.writelines(blocks())


@contextmanager
def peaks(what: str) -> Iterator[None]:
    """Print seconds and the most memory that API, supervisors and runner held while the block ran."""
    highest, done = {"api": 0, "supervisor": 0, "runner": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            now = dict.fromkeys(highest, 0)
            for process in psutil.Process().children(recursive=True):
                try:
                    held = resident(process)
                    role = role_of(process)
                except psutil.Error:
                    continue
                if role is not None:
                    now[role] += held
            highest.update({role: max(highest[role], held) for role, held in now.items()})

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.monotonic()
    try:
        yield
    finally:
        done.set()
        thread.join()
    told = ", ".join(f"{role} {held / MIB:.0f} MiB" for role, held in highest.items())
    print(f"{what}: {time.monotonic() - began:.1f} s; peak {told}", flush=True)


def role_of(process: psutil.Process) -> str | None:
    """Which of the three a process belongs to."""
    command = " ".join(process.cmdline())
    if "uvicorn" in command:
        return "api"
    if "workers.app" in command:
        return "supervisor"
    return "runner" if "-m runner" in command and "confine.py" not in command else None


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
