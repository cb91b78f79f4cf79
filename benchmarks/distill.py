"""Half-width students with each method of distillation against the same student without a teacher.

    OMP_NUM_THREADS=1 python -m benchmarks.distill --shared ../shared --out distill.json

The student is cut out of the teacher and begins with its weights; all runs of a case have the same number of updates
and the same choice of the learning rate. With a tenth of the labels the student alone has a tenth of the samples, and
the taught one has all of them without labels. The share of the gap that is closed is (taught − alone) / (teacher −
alone), by seed; its interval is Student's over the seeds. A seed decides the order of the samples and the adapters.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from core.compression.context import Context
from core.compression.distill.methods import FeatureMethod, LogitMethod
from core.compression.distill.student import choose_student
from core.compression.train.losses import TaskObjective
from core.compression.train.trainer import train
from core.data.dataset import Dataset, open_dataset
from core.data.splits import Split
from core.description import DatasetSpec, InputMapping, SplitArrays, SplitName
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.distill import Distillation, FeatureDistillation, LogitDistillation, Thinning
from core.specs.recipe import Constraints, Target
from core.specs.train import Finetune

GREY = {"x": InputMapping(layout="NHW", scale=1 / 255, mean=(0.5,), std=(0.5,))}
CIFAR = InputMapping(layout="NHWC", scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
ANSWERS, FEATURES = ("hinton", "dkd", "dist"), ("hint", "attention", "relational")
SHARES = (1.0, 0.1)


@dataclass(frozen=True)
class Case:
    """A teacher by its file, its data, seeds and updates of each run."""

    file: str
    data: str
    spec: DatasetSpec
    seeds: int
    steps: int
    lr: float | None = None
    # Samples of each split at most; None for all.
    limits: tuple[tuple[SplitName, int], ...] = ()


CASES = (
    Case(
        "lenet5_fashion.pt2",
        "fashion_mnist",
        DatasetSpec(
            task="classification",
            inputs=GREY,
            splits={"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")},
        ),
        seeds=5,
        steps=1700,
    ),
    Case(
        "resnet20_cifar10.pt2",
        "cifar10_small",
        DatasetSpec(task="classification", inputs={"x": CIFAR}),
        seeds=3,
        steps=1000,
    ),
)
QUICK = {"lenet5_fashion.pt2": (2, 150), "resnet20_cifar10.pt2": (1, 40)}
QUICK_LIMITS: tuple[tuple[SplitName, int], ...] = (("train", 9600), ("validation", 500), ("evaluation", 2000))


def main() -> None:
    """Run every case and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=[case.file for case in CASES])
    parser.add_argument("--methods", nargs="*", default=[*ANSWERS, *FEATURES])
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of the labels")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, help="updates of each run")
    parser.add_argument("--quick", action="store_true", help="few seeds, updates and samples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if case.file not in options.only:
            continue
        if options.quick:
            seeds, steps = QUICK[case.file]
            case = replace(case, seeds=seeds, steps=steps, lr=1e-3, limits=QUICK_LIMITS)  # noqa: PLW2901
        case = replace(case, seeds=options.seeds or case.seeds, steps=options.steps or case.steps)  # noqa: PLW2901
        for row in run_case(options.shared, case, options.methods, options.shares):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if options.out:
                # What has been measured outlives a kill.
                options.out.write_text(json.dumps(rows, indent=1))


def run_case(shared: Path, case: Case, methods: Sequence[str], shares: Sequence[float]) -> Iterator[dict[str, object]]:
    """One row for each method and share of labels."""
    teacher = fold_batch_norm(read(shared / "models" / case.file))
    dataset = open_dataset([shared / "data" / f"{case.data}.npz"], case.spec, teacher.inputs)
    for split, most in case.limits:
        dataset = _first_rows(dataset, split, most)
    best = accuracy(teacher, dataset)
    for share in shares:
        alone = [train_alone(teacher, dataset, case, share, seed) for seed in range(case.seeds)]
        for name in methods:
            start = time.process_time()
            taught = [teach(teacher, dataset, case, name, share=share, seed=seed) for seed in range(case.seeds)]
            closed = [(one - other) / (best - other) for one, other in zip(taught, alone, strict=True)]
            yield {
                "network": case.file,
                "labels": share,
                "method": name,
                "steps": case.steps,
                "teacher": round(best, 4),
                "alone": round(float(np.mean(alone)), 4),
                "taught": round(float(np.mean(taught)), 4),
                "gap_closed": describe_shares(closed),
                "p": p_of_none(closed),
                "cpu_seconds_a_run": round((time.process_time() - start) / case.seeds, 1),
                "load": round(os.getloadavg()[0], 1),
            }


def describe_shares(values: list[float]) -> list[float | None]:
    """Mean and both ends of Student's 95 % interval; one value has none."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [round(mean, 3), None, None]
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return [round(each, 3) for each in (mean, mean - half, mean + half)]


def p_of_none(values: list[float]) -> float | None:
    """Student's two-sided p that the mean is 0 over seeds; one value has none."""
    return round(float(stats.ttest_1samp(values, 0.0).pvalue), 4) if len(values) > 1 else None


def train_alone(teacher: Network, dataset: Dataset, case: Case, share: float, seed: int) -> float:
    """Accuracy of the student that learns from labels, of all samples or of a tenth."""
    asked = Finetune(steps=case.steps, **_rate(case))
    student = choose_student(LogitDistillation(student=Thinning(width=0.5)), teacher, _context(dataset, teacher, seed))
    given = dataset if share == 1 else _first_rows(dataset, "train", round(dataset.count("train") * share))
    trained = train(student, TaskObjective(dataset.task), given, asked, _context(given, teacher, seed))
    return accuracy(trained.network, dataset)


def teach(teacher: Network, dataset: Dataset, case: Case, name: str, *, share: float, seed: int) -> float:
    """Accuracy of the student that is taught by one method."""
    settings = {"steps": case.steps, "student": Thinning(width=0.5), **_rate(case)}
    if share < 1:
        settings["label_weight"] = 0.0
    context = _context(dataset, teacher, seed)
    spec: Distillation
    if name in ANSWERS:
        spec = LogitDistillation.model_validate({**settings, "loss": name})
        student, _ = LogitMethod().apply(teacher, spec, context)
    else:
        spec = FeatureDistillation.model_validate({**settings, "loss": name})
        student, _ = FeatureMethod().apply(teacher, spec, context)
    return accuracy(student, dataset)


def accuracy(network: Network, dataset: Dataset) -> float:
    """Share of right answers on the evaluation split."""
    right: list[Tensor] = []
    for batch in dataset.batches("evaluation", 256):
        with torch.no_grad():
            right.append(network.graph(batch.inputs[network.inputs[0].name]).argmax(1) == batch.labels)
    return float(torch.cat(right).float().mean())


def _rate(case: Case) -> dict[str, float]:
    return {} if case.lr is None else {"lr": case.lr}


def _first_rows(dataset: Dataset, split: SplitName, most: int) -> Dataset:
    """The same data with the first samples of a split."""
    whole = dataset.splits[split]
    return replace(dataset, splits={**dataset.splits, split: Split(whole.samples, whole.rows[:most])})


def _context(dataset: Dataset, teacher: Network, seed: int) -> Context:
    return Context(
        step="distill",
        index=0,
        dataset=dataset,
        target=Target(),
        constraints=Constraints(),
        seed=seed,
        emit=lambda _: None,
        original=teacher,
    )


if __name__ == "__main__":
    main()
