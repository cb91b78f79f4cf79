"""Pruning to a time: asked, predicted, measured; how good the prediction is; what fewer multiply-adds gain in time.

    OMP_NUM_THREADS=1 python -m benchmarks.prune_latency --shared ../shared --out prune_latency.json

`jobs` prune channels by the size of weights until a run takes a share of its time, without training: time does not
depend on it. `predictor` compares the prediction with the measurement at widths that are drawn from those that are
timed; MAPE is the mean relative error in percent, rho Spearman's correlation. `macs` prunes to a share of the
multiply-adds and measures what that gains, at each batch size, against what it would be were time proportional.
Noise as input; every network is timed in turns with the original, 40 runs each in 5 fresh sessions.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from core.compression.context import Context
from core.compression.prune.channels import ChannelPruner
from core.compression.prune.timing import Timing
from core.measure.host import describe_host
from core.measure.latency_table import knots
from core.measure.network_latency import Stopwatch, cut_to, predict_network
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.network.surgery import Channels, outer_groups
from core.specs.recipe import Constraints, Target
from core.specs.structured_pruning import ChannelPruning

NETWORKS = ("lenet5_fashion", "resnet20_cifar10", "dwcnn_fashion", "vit_fashion")
ASKED = (0.75, 0.5, 0.3)
SHARES_OF_MACS = (0.5, 0.25)
Row = dict[str, object]


def run_jobs(name: str, network: Network, options: argparse.Namespace) -> Iterator[Row]:
    """What was asked, predicted and measured, as the plan of each job has it, and measured once more afterwards."""
    for share in options.shares:
        begin = time.perf_counter()
        target = Target(runtime=options.runtime, batch_sizes=(options.batches[0],))
        spec = ChannelPruning.model_validate({"keep": {"latency": share}, "criterion": "l2", "least": 0.05})
        pruned, report = ChannelPruner().apply(network, spec, _context(target))
        seconds = time.perf_counter() - begin
        with Stopwatch(network, None, target) as stopwatch:
            again = stopwatch.measure(pruned)
        yield {
            "kind": "job",
            "network": name,
            "asked_share": share,
            **Timing.model_validate(report.plan["latency"]).model_dump(),
            "again_share": again.share,
            "again_low": again.interval.low,
            "again_high": again.interval.high,
            "seconds": round(seconds, 1),
        }


def run_predictor(name: str, network: Network, options: argparse.Namespace) -> Iterator[Row]:
    """Networks at drawn widths."""
    channels = Channels(network)
    groups = outer_groups(channels)
    target = Target(runtime=options.runtime, batch_sizes=(options.batches[0],))
    drawn = random.Random(0)
    with Stopwatch(network, None, target) as stopwatch:
        begin = time.perf_counter()
        latency, table = predict_network(channels, groups, stopwatch)
        seconds = time.perf_counter() - begin
        predicted, measured = list[float](), list[float]()
        for _ in range(options.configurations):
            share = drawn.uniform(0.2, 0.9)
            widths = {
                group: drawn.choice([width for width in knots(group.size) if width >= share * group.size])
                for group in groups
            }
            predicted.append(latency.at(widths))
            measured.append(stopwatch.measure(cut_to(channels, widths)).median_ms)
        runtime = stopwatch.runtime
    ratios = np.array(predicted) / np.array(measured)
    yield {
        "kind": "predictor",
        "network": name,
        "runtime": runtime,
        "batch": options.batches[0],
        "configurations": len(ratios),
        "range_ms": [min(measured), max(measured)],
        "mape": float(100 * np.abs(ratios - 1).mean()),
        "worst": float(100 * np.abs(ratios - 1).max()),
        "rho": float(scipy.stats.spearmanr(predicted, measured).statistic),
        "fixed_ms": latency.fixed_ms,
        "factor": latency.factor,
        "points": table.points,
        "spread": table.spread,
        "seconds": round(seconds, 1),
    }


def run_macs(name: str, network: Network, options: argparse.Namespace) -> Iterator[Row]:
    """Speed-ups of networks with fewer multiply-adds, and with widths of the same share of every layer."""
    for share in SHARES_OF_MACS:
        for ranking in ("global", "layer"):
            spec = ChannelPruning.model_validate({"keep": share, "criterion": "l2", "ranking": ranking})
            pruned, _ = ChannelPruner().apply(network, spec, _context(Target()))
            costs = Channels(network).costs().macs / Channels(pruned).costs().macs
            for batch in options.batches:
                with Stopwatch(network, None, Target(runtime=options.runtime, batch_sizes=(batch,))) as stopwatch:
                    found = stopwatch.measure(pruned)
                yield {
                    "kind": "macs",
                    "network": name,
                    "ranking": ranking,
                    "batch": batch,
                    "runtime": stopwatch.runtime,
                    "macs_ratio": costs,
                    "speedup": 1 / found.share,
                    "low": 1 / found.interval.high,
                    "high": 1 / found.interval.low,
                    "of_macs": 1 / found.share / costs,
                }


def _context(target: Target) -> Context:
    return Context("prune.channels", 0, None, target, Constraints(), 0, lambda _: None)


PARTS: dict[str, Callable[[str, Network, argparse.Namespace], Iterator[Row]]] = {
    "jobs": run_jobs,
    "predictor": run_predictor,
    "macs": run_macs,
}


def main() -> None:
    """Run the parts on the networks and print their rows, with the load of the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runtime", choices=["onnxruntime-cpu", "openvino-cpu", "auto"], default="auto")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--shares", type=float, nargs="*", default=list(ASKED))
    parser.add_argument("--configurations", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = [{"host": describe_host().cpu, "flags": describe_host().flags}]
    print(json.dumps(rows[0]), flush=True)
    for part in options.parts:
        for name in options.only:
            network = fold_batch_norm(read(options.shared / "models" / f"{name}.pt2"))
            for row in PARTS[part](name, network, options):
                rows.append(row | {"load": os.getloadavg()[0]})
                print(json.dumps(rows[-1]), flush=True)
                if options.out is not None:
                    options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
