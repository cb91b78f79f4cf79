"""What the trainer costs beside a bare torch loop over the same network, samples and updates.

    OMP_NUM_THREADS=1 python -m benchmarks.trainer_overhead --shared ../shared

The bare loop reads the samples into float tensors and does what is needed and no more: pick rows, forward, loss,
backward, clip, rate, AdamW, and as many judgements on as many validation samples. Both begin with a network and a data
set that is open, and run in turn; time is that of the process, so that other work on the host disturbs it less.
"""

import argparse
import math
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.finetune import SPECS
from core.compression.context import Context
from core.compression.train.losses import TaskObjective
from core.compression.train.mount import TrainableNetwork
from core.compression.train.trainer import JUDGEMENTS, JUDGING_SHARE, PASSES, train
from core.compression.train.updates import rate_at
from core.compression.train.validation import BATCH as JUDGED_AT_ONCE
from core.data.dataset import Dataset, open_dataset
from core.description import SplitName
from core.messages import Message, MetricMessage
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.recipe import Constraints, Target
from core.specs.train import Training

RATE = 1e-4


@dataclass(frozen=True)
class Case:
    """A network by its file, its data, and the updates of each run."""

    file: str
    data: str
    updates: int


CASES = (
    Case("lenet300_fashion.pt2", "fashion_mnist", 1200),
    Case("lenet5_mnist10k.pt2", "mnist10k", 150),
    Case("vit_fashion.pt2", "fashion_mnist", 60),
)


def main() -> None:
    """Print the ratio of both times for every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[case.file for case in CASES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the smallest network, two rounds, a tenth of the updates")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [case for case in CASES if case.file in options.only]
    for case in chosen[:1] if options.quick else chosen:
        network = fold_batch_norm(read(options.shared / "models" / case.file))
        dataset = open_dataset([options.shared / "data" / f"{case.data}.npz"], SPECS[case.data], network.inputs)
        updates = case.updates // 10 if options.quick else case.updates
        pairs = [compare(network, dataset, updates, turn) for turn in range(2 if options.quick else options.rounds)]
        ratios = sorted(ours / bare for ours, bare in pairs)
        middle = statistics.median(ratios)
        bare = statistics.median(each for _, each in pairs) / updates * 1000
        print(
            f"{case.file}: {middle - 1:+.1%} ({ratios[0] - 1:+.1%} … {ratios[-1] - 1:+.1%}) of a bare loop's "
            f"{bare:.2f} ms an update, {updates} updates, {len(pairs)} rounds, load {os.getloadavg()[0]:.1f}"
        )


def compare(network: Network, dataset: Dataset, updates: int, turn: int) -> tuple[float, float]:
    """Seconds of the trainer and of the bare loop for the same work, in an order that changes."""
    seconds: dict[str, float] = {}
    judged: dict[str, int] = {}
    for name in ("ours", "bare") if turn % 2 else ("bare", "ours"):
        begin = time.process_time()
        judged[name] = (ours if name == "ours" else bare_loop)(network, dataset, updates)
        seconds[name] = time.process_time() - begin
    if len(set(judged.values())) > 1:
        raise SystemExit(f"not the same work was done: {judged}")
    return seconds["ours"], seconds["bare"]


def ours(network: Network, dataset: Dataset, updates: int) -> int:
    """The trainer; gives how often it judged."""
    told: list[Message] = []
    context = Context("finetune", 0, dataset, Target(), Constraints(), seed=0, emit=told.append)
    settings = Training(steps=updates, lr=RATE, augment="none", early_stopping=0)
    train(network, TaskObjective(dataset.task), dataset, settings, context)
    return 1 + sum(isinstance(each, MetricMessage) and each.name == "quality" for each in told)


def bare_loop(network: Network, dataset: Dataset, updates: int) -> int:
    """What one would write for this network alone; gives how often it judged."""
    settings = Training(steps=updates)
    graph = TrainableNetwork(network).unmount().graph
    train_x, train_y = read_all(dataset, "train")
    held_x, held_y = read_all(dataset, "validation")
    size = settings.batch_size
    parameters = [each.requires_grad_() for each in graph.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=settings.weight_decay, fused=True)
    cheap = math.ceil(len(held_x) / (JUDGING_SHARE * PASSES * size))
    pause = max(min(len(train_x) // size, math.ceil(updates / JUDGEMENTS)), cheap)
    judged = 1
    judge(graph, held_x, held_y)
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(train_x)))
    for update in range(updates):
        place = update % (len(train_x) // size) * size
        chosen = rows[place : place + size]
        optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(graph(train_x[chosen]), train_y[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate_at(update, updates, settings)
        optimiser.step()
        if (update + 1) % pause == 0 or update + 1 == updates:
            judge(graph, held_x, held_y)
            judged += 1
    return judged


def judge(graph: torch.nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Loss and accuracy."""
    loss = right = 0.0
    with torch.no_grad():
        for start in range(0, len(x), JUDGED_AT_ONCE):
            found, wanted = graph(x[start : start + JUDGED_AT_ONCE]), y[start : start + JUDGED_AT_ONCE]
            loss += float(F.cross_entropy(found, wanted, reduction="sum"))
            right += float((found.argmax(1) == wanted).sum())
    return loss / len(x), right / len(x)


def read_all(dataset: Dataset, split: SplitName) -> tuple[Tensor, Tensor]:
    """All samples and labels of a split."""
    (batch,) = dataset.batches(split, dataset.count(split))
    if batch.labels is None:
        raise SystemExit("the benchmark's data has labels")
    return next(iter(batch.inputs.values())), batch.labels


if __name__ == "__main__":
    main()
