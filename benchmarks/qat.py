"""Quantization-aware training: `quantize.*`, then `finetune` or `distill.logits`, against the float network and before.

    OMP_NUM_THREADS=1 python -m benchmarks.qat --shared ../shared --out qat.json

Every step is the library's, with its defaults but for the bits, the updates and the learning rate. The teacher is the
float network. Quality is that of the exported file in onnxruntime on the whole evaluation split, of the last weights,
since there is no validation split. The change is paired sample by sample, over all seeds; a seed decides the order of
the samples. Float weights that are trained just as long are the control.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.finetune import SPECS
from core.compression.context import Context
from core.compression.registry import method_of
from core.data.dataset import Dataset, open_dataset
from core.measure.intervals import compare_proportions
from core.measure.runtime import open_session, run_session
from core.network.export import export_onnx
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.base import Spec
from core.specs.distill import LogitDistillation
from core.specs.levels import BinaryQuantization, LogQuantization, TernaryQuantization
from core.specs.linear import ActivationGrid, LinearQuantization, WeightGrid
from core.specs.recipe import Constraints, Target
from core.specs.train import Finetune

FORMATS: dict[str, Spec | None] = {
    "float": None,
    "W4A4": LinearQuantization(weights=WeightGrid(bits=4), activations=ActivationGrid(bits=4)),
    "W2A8": LinearQuantization(weights=WeightGrid(bits=2), activations=ActivationGrid(bits=8)),
    "log2": LogQuantization(bits=3),
    "ternary": TernaryQuantization(),
    "binary": BinaryQuantization(),
}
WAYS: dict[str, type[Finetune | LogitDistillation]] = {"labels": Finetune, "teacher": LogitDistillation}
BATCH = 200


@dataclass(frozen=True)
class Case:
    """A network by its file, its data, and of each training the updates and the seeds."""

    file: str
    data: str
    steps: int
    seeds: int


CASES = (
    Case("lenet5_fashion.pt2", "fashion_mnist", steps=1500, seeds=5),
    Case("dwcnn_fashion.onnx", "fashion_mnist", steps=500, seeds=3),
)


def main() -> None:
    """Run every case and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=[case.file for case in CASES])
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help="who is learned from")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, help="updates of each training")
    parser.add_argument("--lr", type=float, help="in place of the default, which tries some")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for case in CASES:
        if case.file not in options.only:
            continue
        asked = {"steps": options.steps or case.steps, "lr": options.lr or "auto"}
        ways = {name: WAYS[name].model_validate(asked) for name in options.ways}
        for row in run_case(options.shared, case, ways, options.formats, seeds=options.seeds or case.seeds):
            rows[row["network"], row["format"], row["from"]] = row
            print(json.dumps(row), flush=True)
            if options.out:
                # What has been measured outlives a kill.
                options.out.write_text(json.dumps([*rows.values()], indent=1))


def run_case(
    shared: Path, case: Case, ways: Mapping[str, Finetune | LogitDistillation], formats: list[str], *, seeds: int
) -> Iterator[dict[str, object]]:
    """A row for each format and way, after every seed: of all seeds so far."""
    network = fold_batch_norm(read(shared / "models" / case.file))
    dataset = open_dataset([shared / "data" / f"{case.data}.npz"], SPECS[case.data], network.inputs)
    # The networks know these samples by heart, so that no training could look better than none: the last weights count.
    dataset = replace(dataset, splits={name: each for name, each in dataset.splits.items() if name != "validation"})
    whole = right(network, dataset)
    for name in formats:
        spec = FORMATS[name]
        start = network if spec is None else take(spec, network, dataset, original=network, seed=0)
        before = compare_proportions(whole, right(start, dataset))
        for way, asked in ways.items():
            begin, after = time.process_time(), []
            for seed in range(seeds):
                after.append(right(take(asked, start, dataset, original=network, seed=seed), dataset))
                change = compare_proportions(np.tile(whole, len(after)), np.concatenate(after))
                yield {
                    "network": case.file,
                    "format": name,
                    "from": way,
                    "updates": asked.steps,
                    "lr": asked.lr,
                    "float": round(float(whole.mean()), 4),
                    "untrained_points": round(100 * before.delta, 2),
                    "trained": [round(float(each.mean()), 4) for each in after],
                    "change_points": [round(100 * value, 2) for value in (change.delta, change.low, change.high)],
                    "cpu_seconds": round(time.process_time() - begin, 1),
                    "load": round(os.getloadavg()[0], 1),
                }


def take(spec: Spec, network: Network, dataset: Dataset, *, original: Network, seed: int) -> Network:
    """The network after one step of a job that began with `original`."""
    context = Context(
        spec.method, 0, dataset, Target(), Constraints(), seed=seed, emit=lambda _: None, original=original
    )
    torch.manual_seed(seed)
    made, _ = method_of(spec).apply(network, spec, context)
    return made


def right(network: Network, dataset: Dataset) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Of each sample of the evaluation split whether the exported file classifies it rightly."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.onnx"
        first = next(dataset.batches("evaluation", 8, 8))
        export_onnx(network, path, probes=tuple(first.inputs[tensor.name] for tensor in network.inputs))
        session = open_session(path, 1)
        found = [
            torch.from_numpy(run_session(session, {name: each.numpy() for name, each in batch.inputs.items()})[0])
            .argmax(-1)
            .eq(batch.labels)
            for batch in dataset.batches("evaluation", BATCH)
            if batch.labels is not None
        ]
    return torch.cat(found).numpy()


if __name__ == "__main__":
    main()
