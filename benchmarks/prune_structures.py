"""Every granularity of pruning on every structure: files that onnxruntime runs, smaller, with the same answers.

    python -m benchmarks.prune_structures [STRUCTURE …]

A row a structure, with loud random weights. First what its groups of channels promise: the largest change of the
outputs when all are in another order, and when every other index is cut instead of set to zero. Then of each
granularity (half of the weights, of the multiply-adds or of the blocks stays) the bytes of the ONNX file as a share of
the original's, and the largest difference between what onnxruntime answers and what the pruned network does in torch,
at other batches than it was traced with; for channels and layers the share of the parameters too. (The networks are
tiny: where
the pruned layers hold a few kilobytes, the nodes that rebuild them weigh as much.) Under the table, why
some are not possible. Ends with 1 where anything differs by more than rounding.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from core.network.describe import describe
from core.network.export import export_onnx
from core.network.network import Network
from core.specs.base import Spec
from core.specs.mask_pruning import MaskPruning
from tests.conformance.pruning_cases import GRANULARITIES, SHOWN, check_pruned, prune
from tests.core.network.surgery.comparing import answers, change_by_order, distance, gap_to_zeros, run_onnx
from tests.core.network.surgery.known import Known, known

# As parts of the largest output: sums in another order; the same in another program.
ROUNDING, PARITY = 2e-5, 1e-4
BATCHES = (1, 5)


@dataclass(frozen=True)
class Cell:
    """What became of one granularity; `why` where there is nothing, `wrong` where it fails."""

    text: str
    why: str = ""
    wrong: str = ""


def main() -> int:
    """The table; 1 where a cell fails."""
    parser = argparse.ArgumentParser(description="Granularities of pruning on structures.")
    parser.add_argument("structures", nargs="*", default=list(SHOWN))
    names: Sequence[str] = parser.parse_args().structures
    torch.set_num_threads(1)
    print(f"| structure | groups | order | zeros | {' | '.join(GRANULARITIES)} |")
    print(f"| --- |{' --- |' * (len(GRANULARITIES) + 3)}")
    reasons: dict[str, list[str]] = {}
    failures: list[str] = []
    for name in names:
        order, zeros = promises(known(name))
        cells = {granularity: try_out(known(name), spec) for granularity, spec in GRANULARITIES.items()}
        row = " | ".join(cell.text for cell in cells.values())
        shown = SHOWN.get(name, name)
        print(f"| {shown} | {len(known(name).channels.groups)} | {order:.0e} | {zeros:.0e} | {row} |", flush=True)
        if max(order, zeros) > ROUNDING:
            failures.append(f"{name}: groups of channels do not hold what they promise")
        failures += [f"{name}, {granularity}: {cell.wrong}" for granularity, cell in cells.items() if cell.wrong]
        for granularity, cell in cells.items():
            if cell.why:
                reasons.setdefault(cell.why, []).append(f"{shown} ({granularity})")
    print()
    for why, places in reasons.items():
        print(f"* {why} – {', '.join(places)}")
    for failure in failures:
        print(f"FAILED {failure}")
    return int(bool(failures))


def promises(case: Known) -> tuple[float, float]:
    """How far outputs move by another order of all groups, and how far cutting is from setting to zero."""
    groups = [group for group in case.channels.groups if not group.statistic]
    gaps = [gap_to_zeros(case.channels, group, case.inputs) for group in groups]
    return change_by_order(case.channels, case.inputs), max(gaps, default=0.0)


def try_out(case: Known, spec: Spec) -> Cell:
    """Prune, check, export, and compare."""
    pruned = prune(case, spec)
    if isinstance(pruned, str):
        return Cell("–", why=pruned)
    try:
        check_pruned(case, spec, pruned)
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
            export_onnx(case.network, before)
            export_onnx(pruned.network, after)
            gap = max(difference(case, pruned.network, after, batch) for batch in BATCHES)
            same_names = names_of(before) == names_of(after)
            share = after.stat().st_size / before.stat().st_size
    except Exception as error:  # noqa: BLE001  a failure is a cell of the table
        return Cell("**failed**", wrong=f"{type(error).__name__}: {error}")
    text = f"{share:.2f}, {gap:.0e}"
    if not isinstance(spec, MaskPruning):
        text += f", {describe(pruned.network).parameters / case.description.parameters:.2f}"
    wrong = [] if gap < PARITY else [f"onnxruntime answers otherwise by {gap:.0e}"]
    wrong += [] if same_names else ["inputs or outputs have other names"]
    # A mask over weights that are a few kilobytes in all can take more than it saves: a job tells of it (`file_grew`).
    wrong += [] if share < 1 or isinstance(spec, MaskPruning) else ["the file is not smaller"]
    return Cell(text, wrong="; ".join(wrong))


def difference(case: Known, network: Network, path: Path, batch: int) -> float:
    """Between the file in onnxruntime and the network in torch, as a part of the largest output."""
    inputs: tuple[Tensor, ...] = tuple(torch.cat([each, each.flip(0)])[:batch] for each in case.inputs)
    return distance(run_onnx(path, inputs), answers(network, inputs))


def names_of(path: Path) -> list[tuple[str, str]]:
    """Inputs and outputs of a file in their order, with their types."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [(value.name, value.type) for value in (*session.get_inputs(), *session.get_outputs())]


if __name__ == "__main__":
    raise SystemExit(main())
