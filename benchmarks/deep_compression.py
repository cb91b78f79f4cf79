"""Deep Compression in one ONNX file that a stock onnxruntime executes: pruning in rounds, shared values, training.

    OMP_NUM_THREADS=1 python -m benchmarks.deep_compression --shared ../shared --out deep_compression.json

One recipe for all networks, but for the name of the last layer, which keeps all its weights: `prune.weights` in rounds
of `distill.logits`, `quantize.float` for biases, `quantize.codebook`, `distill.logits`. Every step is the library's.
Bytes are those of `model.onnx` and of the file that was given, alone and after xz. Accuracy is that of both files in
onnxruntime on the whole evaluation split; the change is paired sample by sample, over all seeds so far; a seed decides
the order of the samples. What is in the file given with `--out` is not run again.
"""

import argparse
import json
import lzma
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.finetune import SPECS
from benchmarks.qat import BATCH, take
from core.data.dataset import Dataset, open_dataset
from core.measure.intervals import compare_proportions
from core.measure.runtime import open_session, run_session
from core.measure.size import itemise_bytes
from core.network.export import export_onnx
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.specs.recipe import Recipe

TEACHER = "distill.logits"

Right = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Case:
    """A network by its file, its data, and its last layer."""

    file: str
    data: str
    last: str


CASES = (
    Case("lenet300_mnist10k", "mnist10k", "fc3"),
    Case("lenet300_fashion", "fashion_mnist", "fc3"),
    Case("lenet5_mnist10k", "mnist10k", "fc2"),
    Case("lenet5_fashion", "fashion_mnist", "fc2"),
)


def make_recipe(last: str, keep: float, values: int, updates: Sequence[int], learn: str = TEACHER) -> Recipe:
    """`updates` are those of each round, after the last round, and with shared values, by the method `learn`."""
    first, second, third = ({"method": learn, "steps": number} for number in updates)
    pruning = {
        "method": "prune.weights",
        "keep": keep,
        "protect": [last],
        "update": "none",
        "schedule": {"rounds": 4, "shape": "cubic", "train": first},
    }
    books = {"method": "quantize.codebook", "values": values}
    steps = [pruning, second, {"method": "quantize.float", "biases": True}, books, third]
    return Recipe.model_validate({"version": 1, "steps": steps})


def run_case(shared: Path, case: Case, recipe: Recipe, seed: int, kept: Path | None) -> dict[str, object]:
    """A row: bytes of both files, and of each evaluation sample whether they answer rightly."""
    given = shared / "models" / f"{case.file}.onnx"
    original = fold_batch_norm(read(given))
    dataset = open_dataset([shared / "data" / f"{case.data}.npz"], SPECS[case.data], original.inputs)
    begin, network = time.process_time(), original
    for spec in recipe.steps:
        network = take(spec, network, dataset, original=original, seed=seed)
    seconds = time.process_time() - begin
    with tempfile.TemporaryDirectory() as folder:
        path = (kept or Path(folder)) / f"{case.file}.onnx"
        export_onnx(network, path)
        sizes = [each.stat().st_size for each in (given, path)]
        squeezed = [len(lzma.compress(each.read_bytes(), preset=9)) for each in (given, path)]
        items = {name: size for name, size in itemise_bytes(path).model_dump().items() if size}
        answers = [right(each, dataset) for each in (given, path)]
    return {
        "network": case.file,
        "seed": seed,
        "bytes": sizes,
        "ratio": round(sizes[0] / sizes[1], 1),
        "ratio_xz": round(squeezed[0] / squeezed[1], 1),
        "items": items,
        "layers": {name: encoding.name for name, encoding in sorted(network.encodings.items())},
        "lost": np.flatnonzero(answers[0] & ~answers[1]).tolist(),
        "gained": np.flatnonzero(answers[1] & ~answers[0]).tolist(),
        "accuracy": [round(float(each.mean()), 4) for each in answers],
        "samples": len(answers[0]),
        "cpu_seconds": round(seconds),
        "load": round(os.getloadavg()[0], 1),
    }


def right(path: Path, dataset: Dataset) -> Right:
    """Of each sample of the evaluation split whether a file classifies it rightly in onnxruntime."""
    session = open_session(path, 1)
    found = []
    for batch in dataset.batches("evaluation", BATCH):
        assert batch.labels is not None
        answers = run_session(session, {name: each.numpy() for name, each in batch.inputs.items()})[0]
        found.append(answers.argmax(-1) == batch.labels.numpy())
    return np.concatenate(found)


def pair(rows: Sequence[dict[str, object]]) -> list[float]:
    """The change of accuracy in points with its 95 % interval, over the seeds of one network and one setting."""
    before, after = [], []
    for row in rows:
        lost, gained, total = (row[name] for name in ("lost", "gained", "samples"))
        assert isinstance(lost, list)
        assert isinstance(gained, list)
        assert isinstance(total, int)
        # Which of the others are right in both files does not count.
        one = np.zeros(total, dtype=np.bool_)
        one[lost] = True
        other = np.zeros(total, dtype=np.bool_)
        other[gained] = True
        before.append(one)
        after.append(other)
    change = compare_proportions(np.concatenate(before), np.concatenate(after))
    return [round(100 * value, 2) for value in (change.delta, change.low, change.high)]


def main() -> None:
    """Run every case and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep-files", type=Path, help="a folder for the files that are made")
    parser.add_argument("--only", nargs="*", default=[case.file for case in CASES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=float, nargs="*", default=[0.044, 0.074])
    parser.add_argument("--values", type=int, default=8)
    parser.add_argument("--updates", type=int, nargs=3, default=[1000, 4000, 3000])
    parser.add_argument("--learn", choices=[TEACHER, "finetune"], default=TEACHER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(options.out.read_text()) if options.out and options.out.exists() else []
    for seed in range(options.seeds):
        for keep in options.keep:
            for case in (case for case in CASES if case.file in options.only):
                asked = {"keep": keep, "values": options.values, "updates": options.updates}
                asked |= {} if options.learn == TEACHER else {"learn": options.learn}
                alike = [row for row in rows if row["network"] == case.file and row["asked"] == asked]
                if any(row["seed"] == seed for row in alike):
                    continue
                recipe = make_recipe(case.last, **asked)
                row = {"asked": asked, **run_case(options.shared, case, recipe, seed, options.keep_files)}
                rows.append(row | {"change_points": pair([*alike, row])})
                if options.out:
                    options.out.write_text(json.dumps(rows))
                print(json.dumps({name: each for name, each in rows[-1].items() if name not in ("lost", "gained")}))


if __name__ == "__main__":
    main()
