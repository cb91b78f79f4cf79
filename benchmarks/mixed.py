"""`quantize.mixed` between its neighbours with equal bits: how far above the straight line from one to the other.

    OMP_NUM_THREADS=1 python -m benchmarks.mixed --shared ../shared --out mixed.json

Budgets are the bytes halfway between those of 2 and 3, 3 and 4, and 4 and 5 bits for all layers, which are made by
`quantize.linear` with the same kind of grid. Loss and quality are those of the exported file in onnxruntime on the
whole evaluation split; a seed draws the training samples anew from which calibration and choosing samples are taken.
What is in the file given with `--out` is not run again.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.finetune import SPECS
from benchmarks.low_bits import Case, open_case
from core.compression import sensitivity
from core.compression.candidates import find_candidates
from core.compression.context import Context
from core.compression.method import Report
from core.compression.quantize.allocation import Options, allocate
from core.compression.quantize.decision import Decision
from core.compression.quantize.widths import Widths
from core.compression.registry import method_of
from core.data.dataset import open_dataset
from core.network.encodings import Dense
from core.network.network import Network
from core.specs.base import Spec
from core.specs.linear import LinearQuantization, WeightGrid
from core.specs.mixed import Budget, MixedQuantization
from core.specs.recipe import Constraints, Target
from core.specs.rounding import Rounding

NETWORKS = ("lenet5_fashion", "dwcnn_fashion", "vit_fashion")
NEIGHBOURS = ((2, 3), (3, 4), (4, 5))
SAMPLES = 6000
# Trials of single layers by `quantize.linear`, of which nothing is made here, are cut short.
SHORT = 8


@dataclass(frozen=True)
class Point:
    """Of a result the bytes of all parameters, and loss and quality of its file."""

    bytes: int
    loss: float
    quality: float


def draw_case(shared: Path, name: str, seed: int, work: Path) -> Case:
    """The case with other training samples."""
    case = open_case(shared, name, work)
    data = dict(np.load(shared / "data" / "fashion_mnist.npz"))
    rows = np.random.default_rng(seed).permutation(len(data["x_train"]))[:SAMPLES]
    np.savez(work / "drawn.npz", **data | {key: data[key][rows] for key in ("x_train", "y_train")})
    return replace(case, dataset=open_dataset([work / "drawn.npz"], SPECS["fashion_mnist"], case.network.inputs))


def make(case: Case, spec: Spec, seed: int) -> tuple[Network, Report]:
    """The network after a method."""
    context = Context(
        step=spec.method,
        index=0,
        dataset=case.dataset,
        target=Target(),
        constraints=Constraints(),
        seed=seed,
        emit=lambda message: None,  # noqa: ARG005  nobody listens
    )
    made: tuple[Network, Report] = method_of(spec).apply(case.network, spec, context)
    return made


def judge(case: Case, network: Network) -> Point:
    """The point of a network."""
    found, _ = case.answer(network)
    stored = (network.encodings.get(name) or Dense(each) for name, each in network.graph.named_parameters())
    return Point(sum(sum(each.bytes().model_dump().values()) for each in stored), found.loss, found.quality)


def time_solver(case: Case, spec: MixedQuantization, decision: Decision) -> float:
    """The processor's seconds that the programme takes with the costs that were found."""
    candidates, _ = find_candidates(case.network, (), takes=spec.takes)
    widths = Widths(case.network, candidates, spec.grid, spec.bits, floats=spec.allow_float)
    costs = tuple(tuple(decision.costs[path][bits] or 0.0 for bits in widths.bits) for path in widths.paths)
    options = Options(costs, tuple(tuple(each.bytes for each in widths.table[path]) for path in widths.paths))
    begin = time.process_time()
    allocate(options, (spec.budget.bytes or 0) - widths.other_bytes())
    return time.process_time() - begin


def run_case(case: Case, seed: int, asked: MixedQuantization) -> Iterator[dict[str, object]]:
    """A row for each budget."""
    equal: dict[int, Point] = {}
    for bits in sorted({bits for pair in NEIGHBOURS for bits in pair}):
        grid = WeightGrid(bits=bits, per="channel")
        linear = LinearQuantization(weights=grid, activations=None, rounding=asked.rounding)
        equal[bits] = judge(case, make(case, linear, seed)[0])
    for low, high in NEIGHBOURS:
        ends = equal[low], equal[high]
        spec = asked.model_copy(update={"budget": Budget(bytes=(ends[0].bytes + ends[1].bytes) // 2)})
        begin = time.process_time()
        made, report = make(case, spec, seed)
        seconds = time.process_time() - begin
        decision = Decision.model_validate(report.plan["decision"])
        found = judge(case, made)
        share = (found.bytes - ends[0].bytes) / (ends[1].bytes - ends[0].bytes)
        chord = [
            one + share * (other - one)
            for one, other in ((ends[0].quality, ends[1].quality), (ends[0].loss, ends[1].loss))
        ]
        yield {
            "network": case.name,
            "seed": seed,
            "sensitivity": asked.sensitivity,
            "rounding": asked.rounding.method,
            "between": [low, high],
            "bytes": found.bytes,
            "budget": spec.budget.bytes,
            "quality": round(found.quality, 4),
            "equal": [round(end.quality, 4) for end in ends],
            "above_points": round(100 * (found.quality - chord[0]), 2),
            "loss_below": round(chord[1] - found.loss, 4),
            "chosen": decision.chosen,
            "bits": list(decision.bits.values()),
            "seconds": round(seconds, 1),
            "solver_seconds": round(time_solver(case, spec, decision), 3),
            "load": round(os.getloadavg()[0], 1),
        }


def main() -> None:
    """Run every case, print its rows, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sensitivity", default="sqnr")
    parser.add_argument("--rounding", default="nearest")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sensitivity.SAMPLES = sensitivity.SAMPLES_OF_MANY_LAYERS = SHORT
    asked = MixedQuantization(sensitivity=options.sensitivity, rounding=Rounding(method=options.rounding))
    rows = json.loads(options.out.read_text()) if options.out and options.out.exists() else []
    done = {(row["network"], row["seed"], row["sensitivity"], row["rounding"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name in options.only:
                if (name, seed, asked.sensitivity, asked.rounding.method) in done:
                    continue
                found = list(run_case(draw_case(options.shared, name, seed, Path(folder)), seed, asked))
                rows += found
                for row in found:
                    print(json.dumps(row), flush=True)
                if options.out:
                    options.out.write_text(json.dumps(rows, indent=1))
    ours = [row for row in rows if (row["sensitivity"], row["rounding"]) == (asked.sensitivity, asked.rounding.method)]
    above = [row["above_points"] for row in ours]
    print(json.dumps({"rows": len(ours), "mean_above": round(float(np.mean(above)), 2), "least_above": min(above)}))


if __name__ == "__main__":
    main()
