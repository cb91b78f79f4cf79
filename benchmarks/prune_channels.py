"""Pruning of channels against torch-pruning: equal multiply-adds, training and seeds; answers of exported files.

    OMP_NUM_THREADS=1 python -m benchmarks.prune_channels --shared ../shared --out rows.jsonl [--only lenet5_fashion]

Needs torch-pruning 1.6.1 besides the product. Every network is cut once to a share of its multiply-adds, as our exact
shapes count them: by `prune.channels` as it is by itself (`ours`) and without compensation and trials of widths
(`plain`), and by torch-pruning's GroupNormPruner with its usual importance, over all layers together (`global`) and
with one ratio for all layers (`alike`), where the ratio is the one of 127 that comes nearest to the count from below.
torch-pruning gets the network with its batch norms, which are folded when it is done, as the product folds them. Then
each is trained with each seed by the product's trainer with its defaults, and the exported file answers the evaluation
split in onnxruntime. `before` is the file that was not trained.

Rows are written as they come, and those that are there are not made again; the tables are printed from all.
"""

import argparse
import copy
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from benchmarks.finetune import SPECS
from core.compression.context import Context
from core.compression.distill.methods import LogitMethod
from core.compression.prune.channels import ChannelPruner
from core.compression.train.finetune import Finetuner
from core.data.dataset import Dataset, open_dataset
from core.measure.runtime import open_session, run_session
from core.network.describe import describe
from core.network.export import export_onnx
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.budgets import ChannelBudget
from core.specs.distill import LogitDistillation
from core.specs.recipe import Constraints, Target
from core.specs.structured_pruning import ChannelPruning
from core.specs.train import Finetune

METHODS = ("ours", "plain", "global", "alike")
SPECS_OF = {"ours": ChannelPruning(), "plain": ChannelPruning(compensate="none", ranking="global")}
# Batches that times are taken at, rounds of them, and seconds of a round at least.
BATCHES, ROUNDS, SECONDS = (1, 16), 7, 0.1
# Ratios of torch-pruning that are tried.
STEPS = 128
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A network, its data, the shares of multiply-adds, seeds, and epochs; taught by the original or by labels."""

    name: str
    data: str
    shares: tuple[float, ...]
    seeds: int
    epochs: float
    taught: bool


CASES = (
    Case("lenet5_fashion", "fashion_mnist", (0.5, 0.25, 0.1), 5, 1.0, taught=False),
    Case("resnet20_cifar10", "cifar10_small", (0.5, 0.4, 0.25), 3, 2.0, taught=True),
)


def main() -> None:
    """Make the rows that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5, help="seeds at most")
    parser.add_argument("--print", action="store_true", help="make no rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: Rows = []
    if options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    for case in (replace(each, seeds=min(each.seeds, options.seeds)) for each in CASES if each.name in options.only):
        if not options.print:
            with options.out.open("a") as file:
                for row in run(options.shared, case, tuple(options.methods), rows):
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
        print(table([row for row in rows if row["name"] == case.name]), flush=True)


def run(shared: Path, case: Case, methods: tuple[str, ...], rows: Rows) -> Iterator[dict[str, Any]]:
    """The rows of a case that are missing: of each share and method one before training, and one a seed."""
    done = {(row["name"], row["share"], row["method"], row["seed"]) for row in rows}
    given = read(shared / "models" / f"{case.name}.pt2")
    original = fold_batch_norm(given)
    dataset = open_dataset([shared / "data" / f"{case.data}.npz"], SPECS[case.data], original.inputs)
    if (case.name, 1.0, "float", -1) not in done:
        yield {"name": case.name, "share": 1.0, "method": "float", "seed": -1, **judge(original, dataset)}
    for share in case.shares:
        for method in methods:
            missing = [seed for seed in range(-1, case.seeds) if (case.name, share, method, seed) not in done]
            if not missing:
                continue
            begin = time.process_time()
            if method in SPECS_OF:
                spec = SPECS_OF[method].model_copy(update={"keep": ChannelBudget(macs=share)})
                cut, _ = ChannelPruner().apply(original, spec, context(dataset, original, 0))
            else:
                other = prune_elsewhere(given, share, together=method == "global")
                if other is None:
                    print(f"{case.name}: torch-pruning ({method}) does not come to {share:.0%}.", flush=True)
                    continue
                cut = other
            costs, whole = describe(cut), describe(original)
            facts = {
                "macs": costs.macs / whole.macs,
                "parameters": costs.parameters / whole.parameters,
                "seconds": time.process_time() - begin,
            }
            for seed in missing:
                row = {"name": case.name, "share": share, "method": method, "seed": seed, **facts}
                if seed < 0:
                    yield row | judge(cut, dataset) | {"speed": speed(original, cut)}
                else:
                    yield row | judge(train(cut, case, context(dataset, original, seed)), dataset)


def context(dataset: Dataset, original: Network, seed: int) -> Context:
    """Of one step that says nothing."""
    return Context(
        "step", 0, dataset, Target(), Constraints(), seed=seed, emit=lambda _: None, original=original, alone=False
    )


def train(cut: Network, case: Case, given: Context) -> Network:
    """By labels, or by what the original answers."""
    if case.taught:
        return LogitMethod().apply(cut, LogitDistillation(epochs=case.epochs), given)[0]
    return Finetuner().apply(cut, Finetune(epochs=case.epochs), given)[0]


def prune_elsewhere(given: Network, share: float, *, together: bool) -> Network | None:
    """What torch-pruning leaves at the ratio with the most multiply-adds up to this share, folded; None without."""
    whole = describe(fold_batch_norm(given)).macs
    best, most = None, 0
    # Fewer are left at a higher ratio as a rule only: what would lose all channels keeps all.
    for step in range(1, STEPS):
        found = fold_batch_norm(_prune_by(given, step / STEPS, together=together))
        left = describe(found).macs
        if most < left <= share * whole:
            best, most = found, left
    return best


def _prune_by(given: Network, ratio: float, *, together: bool) -> Network:
    import torch_pruning as tp  # type: ignore[import-not-found]  # no dependency of the product

    network = replace(given, graph=copy.deepcopy(given.graph))
    graph, (tensor,) = network.graph, network.inputs
    _free_sizes(graph)
    last = [module for module in graph.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.enable_grad():
        tp.pruner.GroupNormPruner(
            graph,
            torch.zeros(2, *(int(size) for size in tensor.shape[1:])),
            importance=tp.importance.GroupMagnitudeImportance(),
            global_pruning=together,
            pruning_ratio=ratio,
            ignored_layers=[last],
        ).step()
    return network


def _free_sizes(graph: fx.GraphModule) -> None:
    """Let flattenings take what there is, which torch-pruning does not rewrite."""
    for node in graph.graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten.reshape.default) and len(node.args[1]) == 2:
            node.args = (node.args[0], [node.args[1][0], -1])
    graph.recompile()


def judge(network: Network, dataset: Dataset) -> dict[str, Any]:
    """Accuracy of the exported file on the evaluation split, and of each sample whether it is right, in hexadecimal."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(_export(network, Path(folder)), 1)
        found = []
        for batch in dataset.batches("evaluation", 250):
            (answers, *_) = run_session(
                session, {tensor.name: batch.inputs[tensor.name].numpy() for tensor in network.inputs}
            )
            assert batch.labels is not None
            found.append(np.asarray(answers).argmax(1) == batch.labels.numpy())
    right = np.concatenate(found)
    return {"accuracy": float(right.mean()), "samples": len(right), "right": np.packbits(right).tobytes().hex()}


def _export(network: Network, folder: Path) -> Path:
    shape = [int(size) for size in network.inputs[0].shape[1:]]
    export_onnx(network, folder / "model.onnx", probes=(torch.zeros(2, *shape),))
    return folder / "model.onnx"


def speed(original: Network, cut: Network) -> dict[str, float]:
    """How many times faster the cut file is in onnxruntime on one thread, by batch: the best of rounds in turns."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        sessions = [
            open_session(_export(network, Path(folder)), 1) for network, folder in ((original, one), (cut, other))
        ]
    found = {}
    for batch in BATCHES:
        tensor = original.inputs[0]
        feed = {tensor.name: np.zeros((batch, *(int(size) for size in tensor.shape[1:])), np.float32)}
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for session, own in zip(sessions, times, strict=True):
                own.append(_seconds(functools.partial(run_session, session, feed)))
        # The host is shared: what others take can only make a round longer.
        found[str(batch)] = min(times[0]) / min(times[1])
    return found


def _seconds(call: Callable[[], object]) -> float:
    """CPU time of one call, a mean over a round."""
    calls, begin = 0, time.process_time()
    while (now := time.process_time()) - begin < SECONDS:
        call()
        calls += 1
    return (now - begin) / calls


def table(rows: Rows) -> str:
    """Accuracies by method and share, and paired differences from ours over all seeds."""
    floats = [row["accuracy"] for row in rows if row["method"] == "float"]
    lines = [
        f"{rows[0]['name']}: float {floats[0]:.4f}" if floats else "",
        "| asked | method | multiply-adds | parameters | before | trained, seeds | mean | ours − it, points (95 %) "
        "| times faster, batch 1 · 16 | ÷ ratio of multiply-adds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for share in sorted({row["share"] for row in rows if row["share"] < 1}, reverse=True):
        ours = _trained(rows, share, "ours")
        for method in METHODS:
            places = ((row["share"], row["method"], row["seed"]) == (share, method, -1) for row in rows)
            own = next(itertools.compress(rows, places), None)
            trained = _trained(rows, share, method)
            if own is None:
                continue
            accuracies = [row["accuracy"] for row in trained.values()]
            seeds = " ".join(f"{each:.4f}" for each in accuracies)
            both = sorted(ours.keys() & trained.keys())
            gap = (
                ""
                if method == "ours" or not both
                else difference([ours[seed] for seed in both], [trained[seed] for seed in both])
            )
            ratios = " · ".join(f"{value * own['macs']:.2f}" for value in own["speed"].values())
            cells = (
                f"{share:.0%}",
                method,
                f"{own['macs']:.1%}",
                f"{own['parameters']:.1%}",
                f"{own['accuracy']:.4f}",
                seeds,
                f"{statistics.mean(accuracies):.4f}" if trained else "",
                gap,
                " · ".join(f"{value:.2f}" for value in own["speed"].values()),
                ratios,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _trained(rows: Rows, share: float, method: str) -> dict[int, dict[str, Any]]:
    return {row["seed"]: row for row in rows if row["share"] == share and row["method"] == method and row["seed"] >= 0}


def difference(ours: Rows, theirs: Rows) -> str:
    """The mean over samples of the difference of the means over seeds, with its 95 % interval over samples."""
    each = np.mean([_right(row) for row in ours], axis=0) - np.mean([_right(row) for row in theirs], axis=0)
    mean, half = 100 * each.mean(), 196 * each.std(ddof=1) / np.sqrt(len(each))
    return f"{mean:+.2f} ({mean - half:+.2f} … {mean + half:+.2f})"


def _right(row: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))
    return bits[: row["samples"]].astype(np.float64)


if __name__ == "__main__":
    main()
