"""Multiply-adds and planned memory of descriptions against counts that share no code with them.

    python -m benchmarks.describe demo/lenet5.onnx demo/lenet5.pt2 …

Multiply-adds: torch's own flop counter while the network runs on real tensors with the plain CPU kernels, and the
shapes of the ONNX file (for files that are ONNX). Planned peak: the bytes that torch's interpreter holds when it drops
every value after its last use; what onnxruntime plans for the fused file is shown beside it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from core.measure.costs import count_costs
from core.measure.feeds import make_feed
from core.measure.memory import planned_peak_bytes
from core.measure.runtime import open_session
from core.network.describe import describe
from core.network.inspect import read
from core.network.network import Network
from core.network.sampling import draw_inputs, example_of


class Holding(fx.Interpreter):
    """Runs a graph and remembers the most bytes that its values had at once, weights apart."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self.peak = 0

    def run_node(self, n: fx.Node) -> Any:
        """Run one node while all that it reads is still held."""
        made = super().run_node(n)
        if n.op not in ("get_attr", "output"):
            held = {node: value for node, value in self.env.items() if node.op != "get_attr"} | {n: made}
            tensors = [value for value in held.values() if isinstance(value, torch.Tensor)]
            self.peak = max(self.peak, sum(value.numel() * value.element_size() for value in tensors))
        return made


def main() -> None:
    """One line a file; fails when a count differs."""
    parser = argparse.ArgumentParser(description="Descriptions against independent counts.")
    parser.add_argument("files", nargs="+", type=Path)
    differs = [path.name for path in parser.parse_args().files if not compare(path)]
    if differs:
        raise SystemExit(f"Counts differ: {', '.join(differs)}")


def compare(path: Path) -> bool:
    """Print both counts of one file; whether they agree."""
    network = read(path)
    found = describe(network)
    macs, peak = count(network)
    line = f"{path.name:24} MACs {found.macs:>12,} torch {macs:>12,}"
    agree = macs == found.macs and peak == found.planned_activation_bytes
    if path.suffix == ".onnx":
        feed = make_feed(open_session(path, 1), None, 1)
        costs, runtime = count_costs(path, feed), planned_peak_bytes(path, feed)
        agree = agree and costs.macs == found.macs
        line += f" ONNX {costs.macs:>12,}"
    line += f" | peak {found.planned_activation_bytes:>9,} at {found.planned_node or 'the inputs'}, torch {peak:>9,}"
    print(line + (f", runtime {runtime:>9,}" if path.suffix == ".onnx" else ""), flush=True)
    return agree


def count(network: Network) -> tuple[int, int]:
    """Multiply-adds by torch's counter, and the peak of held bytes, for one sample."""
    torch.set_num_threads(1)
    example = example_of(network.inputs, batch=1)
    inputs = draw_inputs(network.graph, example, seed=0)
    plain = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)
    with plain, sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.graph(*inputs)
    holding = Holding(network.graph)
    with torch.no_grad():
        holding.run(*inputs)
    return counter.get_total_flops() // 2, holding.peak


if __name__ == "__main__":
    main()
