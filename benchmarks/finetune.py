"""The defaults of `finetune` against runs of equal length that were tuned by hand, on networks that lost most weights.

    OMP_NUM_THREADS=1 python -m benchmarks.finetune --shared ../shared --out finetune.json

Of every matrix and kernel the smallest weights are masked; what is left is trained. The tuned run is the best of
several learning rates on the validation split, each as long as that of the defaults, its probe included. Both are then
judged on the evaluation split, sample by sample.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.compression.context import Context
from core.compression.train.course import Decisions
from core.compression.train.losses import TaskObjective
from core.compression.train.mount import TrainableNetwork
from core.compression.train.outcome import Trained
from core.compression.train.probe import JUDGING, probe_updates
from core.compression.train.trainer import PASSES, train
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, FractionSplits, InputMapping, SplitArrays, SplitName
from core.measure.intervals import compare_proportions
from core.network.encodings import Dense, Masked
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.recipe import Constraints, Target
from core.specs.train import Finetune

GREY = {"x": InputMapping(layout="NHW", scale=1 / 255, mean=(0.5,), std=(0.5,))}
CIFAR = InputMapping(layout="NHWC", scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
SPECS = {
    "mnist10k": DatasetSpec(
        task="classification",
        inputs=GREY,
        splits=FractionSplits(x="x", y="y", fractions={"train": 0.7, "validation": 0.1, "evaluation": 0.2}),
    ),
    "fashion_mnist": DatasetSpec(
        task="classification",
        inputs=GREY,
        splits={"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")},
    ),
    "cifar10_small": DatasetSpec(task="classification", inputs={"x": CIFAR}),
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SMALLEST_RANK = 2


@dataclass(frozen=True)
class Case:
    """A network by its file, its data, the share of weights that is masked, and the epochs of each run."""

    file: str
    data: str
    masked: float
    epochs: float


CASES = (
    Case("lenet300_fashion.pt2", "fashion_mnist", 0.95, 2.0),
    Case("lenet5_mnist10k.pt2", "mnist10k", 0.95, 5.0),
    Case("resnet20_cifar10.pt2", "cifar10_small", 0.7, 3.1),
    Case("dwcnn_fashion.onnx", "fashion_mnist", 0.7, 0.6),
    Case("vit_fashion.pt2", "fashion_mnist", 0.7, 0.52),
)


def main() -> None:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=[case.file for case in CASES])
    parser.add_argument("--rates", type=float, nargs="*", default=RATES, help="learning rates of the tuned runs")
    parser.add_argument("--quick", action="store_true", help="a fifth of the epochs, two learning rates")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if case.file in options.only:
            short = replace(case, epochs=case.epochs / 5) if options.quick else case
            rows.append(compare(options.shared, short, RATES[1:3] if options.quick else tuple(options.rates)))
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


def compare(shared: Path, case: Case, rates: tuple[float, ...]) -> dict[str, object]:
    """Accuracy on the evaluation split before, with the defaults, and tuned; the paired difference in points."""
    network = fold_batch_norm(read(shared / "models" / case.file))
    dataset = open_dataset([shared / "data" / f"{case.data}.npz"], SPECS[case.data], network.inputs)
    sparse = mask(network, case.masked)
    begin = time.process_time()
    given = run(sparse, dataset, Finetune(epochs=case.epochs))
    seconds = time.process_time() - begin
    steps = int(given.record["steps"] + probe_cost(given))
    tuned = [(rate, run(sparse, dataset, Finetune(steps=steps, lr=rate))) for rate in rates]
    rate, best = max(tuned, key=lambda each: right(each[1].network, dataset, "validation").mean())
    judged = {"float": network, "before": sparse, "given": given.network, "tuned": best.network}
    answers = {name: right(each, dataset, "evaluation") for name, each in judged.items()}
    test = compare_proportions(answers["tuned"], answers["given"])
    return {
        "network": case.file,
        "masked": case.masked,
        "epochs": case.epochs,
        **{name: round(float(found.mean()), 4) for name, found in answers.items()},
        "difference_points": [round(100 * value, 2) for value in (test.delta, test.low, test.high)],
        "lr": given.record["lr"],
        "lr_from": given.record["lr_from"],
        "probe_share": round(probe_cost(given) / given.record["steps"], 3),
        "tuned_lr": rate,
        "accuracy_by_rate": {
            f"{each:g}": round(float(right(found.network, dataset, "evaluation").mean()), 4) for each, found in tuned
        },
        "cpu_seconds": round(seconds, 1),
        "load": os.getloadavg()[0],
    }


def probe_cost(trained: Trained) -> float:
    """What choosing the rate took, in updates, which are given to the tuned runs."""
    decisions = Decisions.model_validate(trained.record)
    return len(decisions.tried) * (probe_updates(decisions.steps) + JUDGING / PASSES) + JUDGING / PASSES


def mask(network: Network, share: float) -> Network:
    """A copy in which the smallest weights of every matrix and kernel are masked."""
    copy = TrainableNetwork(network).unmount()
    encodings = dict(copy.encodings)
    for name, parameter in copy.graph.named_parameters():
        if parameter.dim() >= SMALLEST_RANK and name.endswith(".weight"):
            magnitude = parameter.detach().abs()
            kept = magnitude > magnitude.flatten().kthvalue(max(int(share * magnitude.numel()), 1)).values
            encoding = Masked(kept, Dense(parameter.detach().clone()))
            parameter.data = encoding.decode()
            encodings[name] = encoding
    return replace(copy, encodings=encodings)


def run(network: Network, dataset: Dataset, spec: Finetune) -> Trained:
    """One training."""
    context = Context("finetune", 0, dataset, Target(), Constraints(), seed=0, emit=lambda _: None)
    return train(network, TaskObjective(dataset.task), dataset, spec, context)


def right(network: Network, dataset: Dataset, split: SplitName) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Of each sample whether it is classified rightly."""
    found = []
    for batch in dataset.batches(split, 256):
        with torch.no_grad():
            answers: Tensor = network.graph(*(batch.inputs[tensor.name] for tensor in network.inputs))
        assert batch.labels is not None
        found.append((answers.argmax(1) == batch.labels).numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    main()
