"""Fine-grained pruning without labels, and 2 of 4 with a short training: against magnitudes and the float network.

    OMP_NUM_THREADS=1 python -m benchmarks.prune_weights --shared ../shared --out prune_weights.json
    OMP_NUM_THREADS=1 python -m benchmarks.prune_weights --shared ../shared --out pattern.json --pattern

A row a network and share of weights that stays. *magnitude*: the smallest go, the same share of every layer;
*optimal brain*: `update` with the same shares; *global*: with those of LAMP, the defaults of `prune.weights`, beside
LAMP without an update. Of each the rise of the loss against the labels of up to 2,000 evaluation samples, and the
quality; of the updates the share of the magnitudes' rise that they remove, and the CPU seconds for a million weights.
With `--pattern` 2 of each 4 weights stay: the change of the exported file's quality, paired sample by sample, before
and after a training, and its bytes. `--out` is read again: rows that it has are not repeated.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.finetune import SPECS
from benchmarks.qat import right, take
from core.compression.context import Context
from core.compression.registry import method_of
from core.compression.yardstick import Score, Yardstick
from core.data.dataset import Dataset, open_dataset
from core.measure.intervals import compare_proportions
from core.network.export import export_onnx
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.budgets import MaskBudget
from core.specs.distill import LogitDistillation
from core.specs.mask_pruning import WeightPruning
from core.specs.recipe import Constraints, Target
from core.specs.train import Finetune

NETWORKS = {
    "lenet5_fashion": "fashion_mnist",
    "resnet20_cifar10": "cifar10_small",
    "dwcnn_fashion": "fashion_mnist",
    "vit_fashion": "fashion_mnist",
}
SHARES = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
PATTERN = WeightPruning(n=2, m=4, criterion="l2")
JUDGED = 2000

Row = dict[str, object]


def main() -> None:
    """Run what `--out` does not have, and print every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--shares", type=float, nargs="*", default=list(SHARES))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--pattern", action="store_true", help="2 of 4 and a training in place of shares")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the trainings of --pattern")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = json.loads(options.out.read_text()) if options.out.exists() else []
    for name in options.only:
        network = fold_batch_norm(read(options.shared / "models" / f"{name}.pt2"))
        path = options.shared / "data" / f"{NETWORKS[name]}.npz"
        dataset = open_dataset([path], SPECS[NETWORKS[name]], network.inputs)
        if options.pattern:
            made = pattern_rows(name, network, dataset, options.epochs, rows)
        else:
            made = share_rows(name, network, dataset, options.shares, options.samples, rows)
        for row in made:
            rows.append(row)
            options.out.write_text(json.dumps(rows, indent=1))
            print(json.dumps(row), flush=True)


def share_rows(
    name: str, network: Network, dataset: Dataset, shares: list[float], samples: int, known: list[Row]
) -> Iterator[Row]:
    """A row for each share, of the four ways."""
    yardstick = Yardstick(network, dataset, split="evaluation", limit=JUDGED)
    for share in shares:
        key: Row = {"network": name, "keep": share, "samples": samples}
        if any(key.items() <= row.items() for row in known):
            continue
        plain = WeightPruning(
            keep=MaskBudget(weights=share), criterion="l2", ranking="layer", update="none", samples=samples
        )
        fitted = plain.model_copy(update={"update": "optimal_brain"})
        overall = {"criterion": "lamp", "ranking": "global"}
        ways = {
            "magnitude": plain,
            "optimal brain": fitted,
            "LAMP": plain.model_copy(update=overall),
            "global": fitted.model_copy(update=overall),
        }
        row: Row = {**key, "quality": round(yardstick.original.quality, 4)}
        rise = 0.0
        for way, spec in ways.items():
            pruned, layers, seconds = prune(spec, network, dataset)
            score = yardstick.score(pruned)
            row[way] = told(score, yardstick.original)
            if way == "magnitude":
                rise = score.loss - yardstick.original.loss
            elif spec.update == "optimal_brain":
                row[f"{way}: removed"] = round(1 - (score.loss - yardstick.original.loss) / rise, 4)
                row[f"{way}: seconds for 1M"] = round(seconds / layers * 1e6, 1)
        yield row


def prune(spec: WeightPruning, network: Network, dataset: Dataset) -> tuple[Network, int, float]:
    """The pruned network, how many weights its pruned layers have, and the CPU seconds."""
    context = Context(
        spec.method, 0, dataset, Target(), Constraints(), seed=0, emit=lambda _: None, original=network, alone=False
    )
    begin = time.process_time()
    pruned, report = method_of(spec).apply(network, spec, context)
    seconds = time.process_time() - begin
    return pruned, sum(network.graph.get_parameter(f"{path}.weight").numel() for path in report.layers), seconds


def told(score: Score, original: Score) -> list[float]:
    """The rise of the loss, and the quality."""
    return [round(score.loss - original.loss, 4), round(score.quality, 4)]


def pattern_rows(name: str, network: Network, dataset: Dataset, epochs: float, known: list[Row]) -> Iterator[Row]:
    """2 of 4 by magnitude, with the update, and with each training after it."""
    # The networks know these samples by heart, so that no training could look better than none: the last weights count.
    dataset = replace(dataset, splits={key: each for key, each in dataset.splits.items() if key != "validation"})
    whole = right(network, dataset)
    fitted, _, _ = prune(PATTERN, network, dataset)
    ways: dict[str, Callable[[], Network]] = {
        "magnitude": lambda: prune(PATTERN.model_copy(update={"update": "none"}), network, dataset)[0],
        "optimal brain": lambda: fitted,
        "labels": lambda: take(Finetune(epochs=epochs), fitted, dataset, original=network, seed=0),
        "teacher": lambda: take(LogitDistillation(epochs=epochs), fitted, dataset, original=network, seed=0),
    }
    for way, make in ways.items():
        key: Row = {"network": name, "way": way, "epochs": epochs}
        if any(key.items() <= row.items() for row in known):
            continue
        made = make()
        change = compare_proportions(whole, right(made, dataset))
        yield {
            **key,
            "float": round(float(whole.mean()), 4),
            "change_points": [round(100 * value, 2) for value in (change.delta, change.low, change.high)],
            "bytes": [file_bytes(network), file_bytes(made)],
        }


def file_bytes(network: Network) -> int:
    """Of the exported file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.onnx"
        export_onnx(network, path)
        return path.stat().st_size


if __name__ == "__main__":
    main()
