"""Every encoding and legal stack on 100 MB of dense weights: round trips, bytes, load time, load memory, run time.

`python -m benchmarks.encodings [--million 25] [--only NAME]` writes one `.onnx` and one `.pt2` a case and opens the
first in fresh processes that do nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from core.description import TensorDescription
from core.measure.size import itemise_bytes
from core.network.encodings import (
    AffineInteger,
    Codebook,
    Dense,
    Elementwise,
    Encoding,
    Half,
    Levels,
    LowRank,
    Masked,
    packed_grid,
    restore,
    symmetric_grid,
)
from core.network.encodings.blocks import largest_group
from core.network.encodings.grids import Grid
from core.network.export import export_onnx, export_pt2
from core.network.network import Network

SIDE, REPEATS, RUNS, BATCH = 1000, 3, 5, 8
MIB, MILLION = 1024 * 1024, 1_000_000
TERNARY = Grid(-1, 1, 0, torch.int8, packed=True)


def affine(bits: int, axis: int | None = 0, group: int | None = None) -> Callable[[Tensor], AffineInteger]:
    return lambda weight: AffineInteger.of(weight, grid=packed_grid(bits, group=group), axis=axis)


def asymmetric(bits: int, group: int | None = None) -> Callable[[Tensor], AffineInteger]:
    grid = packed_grid(bits, asymmetric=True, group=group)
    return lambda weight: AffineInteger.asymmetric(weight, grid=grid, axis=0)


def codebook(values: int, groups: int | None = None) -> Callable[[Tensor], Codebook]:
    def make(weight: Tensor) -> Codebook:
        book = torch.linspace(-2.5, 2.5, values) * weight.std()
        return Codebook.of(weight, book if groups is None else book.repeat(groups, 1))

    return make


def masked(density: float, inner: Callable[[Tensor], Elementwise]) -> Callable[[Tensor], Encoding]:
    def make(weight: Tensor) -> Encoding:
        # No `quantile`: it refuses large tensors.
        least = weight.abs().flatten().kthvalue(int(weight.numel() * (1 - density)) + 1).values
        return Masked(weight.abs() >= least, inner(weight))

    return make


def low_rank(rank: int, inner: Callable[[Tensor], Encoding]) -> Callable[[Tensor], Encoding]:
    def make(weight: Tensor) -> Encoding:
        # Random factors: what they cost does not depend on their values.
        return LowRank(inner(weight[:, :rank].clone()), inner(weight[:rank].clone()), tuple(weight.shape))

    return make


GROUP = largest_group(SIDE, 64)
CASES: dict[str, tuple[float, Callable[[Tensor], Encoding]]] = {
    # Bits a weight beside scales, books, and positions.
    "dense": (32, Dense),
    "float16": (16, lambda weight: Half.of(weight, dtype="float16")),
    "bfloat16": (16, lambda weight: Half.of(weight, dtype="bfloat16")),
    "int8, as it is": (8, lambda weight: AffineInteger.of(weight, grid=symmetric_grid(8), axis=0)),
    **{f"int{bits}": (bits, affine(bits)) for bits in range(2, 9)},
    "int4, one scale": (4, affine(4, None)),
    f"int4, groups of {GROUP}": (4, affine(4, group=GROUP)),
    "uint4": (4, asymmetric(4)),
    f"uint4, groups of {GROUP}": (4, asymmetric(4, GROUP)),
    "ternary": (2, lambda weight: AffineInteger.of(weight, grid=TERNARY, axis=0)),
    "binary": (1, lambda weight: Levels.binary(weight, axis=0)),
    "log2, 4 bits": (4, lambda weight: Levels.log2(weight, bits=4, axis=None)),
    **{f"codebook of {2**bits}": (bits, codebook(2**bits)) for bits in range(1, 9)},
    "10 codebooks of 16": (4, codebook(16, 10)),
    "8 % kept": (0.08 * 32, masked(0.08, Dense)),
    "50 % kept": (0.5 * 32, masked(0.5, Dense)),
    "8 % of codebook of 16": (0.08 * 4, masked(0.08, codebook(16))),
    "30 % of codebook of 16": (0.3 * 4, masked(0.3, codebook(16))),
    "8 % of 10 codebooks of 16": (0.08 * 4, masked(0.08, codebook(16, 10))),
    "8 % of int4": (0.08 * 4, masked(0.08, affine(4))),
    "30 % of int8": (0.3 * 8, masked(0.3, affine(8))),
    "8 % of log2, 4 bits": (0.08 * 4, masked(0.08, lambda weight: Levels.log2(weight, bits=4, axis=0))),
    "8 % of binary": (0.08, masked(0.08, lambda weight: Levels.binary(weight, axis=0))),
    "rank 100": (0.2 * 32, low_rank(100, Dense)),
    "rank 100 of int8": (0.2 * 8, low_rank(100, affine(8))),
    "rank 100 of codebook of 16": (0.2 * 4, low_rank(100, codebook(16))),
    "rank 100 of log2, 4 bits": (0.2 * 4, low_rank(100, lambda weight: Levels.log2(weight, bits=4, axis=0))),
    "rank 100 of binary": (0.2, low_rank(100, lambda weight: Levels.binary(weight, axis=0))),
    "rank 100, 30 % of codebook of 16": (0.06 * 4, low_rank(100, masked(0.3, codebook(16)))),
}


def build(layers: int, make: Callable[[Tensor], Encoding]) -> Network:
    """A row of square products, a weight of 4 MB each."""
    generator = torch.Generator().manual_seed(0)
    modules = nn.ModuleDict({f"fc{index}": nn.Linear(SIDE, SIDE, bias=False) for index in range(layers)})
    graph = fx.Graph()
    value = graph.placeholder("x")
    encodings = {}
    for index in range(layers):
        encoding = make(torch.randn(SIDE, SIDE, generator=generator) / SIDE**0.5)
        modules[f"fc{index}"].weight = nn.Parameter(encoding.decode())
        encodings[f"fc{index}.weight"] = encoding
        value = graph.call_module(f"fc{index}", (value,))
    graph.output(value)
    inputs = (TensorDescription(name="x", dtype="float32", shape=("batch", SIDE)),)
    outputs = (TensorDescription(name="y", dtype="float32", shape=("batch", SIDE)),)
    return Network(fx.GraphModule(modules, graph).eval(), inputs, outputs, encodings)


def open_alone(path: Path, dense: Path) -> dict[str, float]:
    """Median figures of fresh processes that open one file."""
    command = [sys.executable, "-m", "benchmarks.open_onnx", str(path), str(dense), str(BATCH), str(SIDE)]
    found = [
        json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(REPEATS)
    ]
    return {key: sorted(each[key] for each in found)[REPEATS // 2] for key in found[0]}


def timed(call: Callable[[], object]) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return sorted(times)[RUNS // 2]


def weights_in(path: Path, count: int) -> list[Tensor]:
    """What onnxruntime has made of the weights once it has loaded the file; nothing else may be left in its graph."""
    import onnx
    import onnxruntime

    optimised = path.with_suffix(".optimised")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(optimised).graph
    optimised.unlink()
    assert {node.op_type for node in graph.node} <= {"MatMul", "Gemm"}, "something is left to decode"
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = [torch.from_numpy(onnx.numpy_helper.to_array(constants[node.input[1]]).copy()) for node in graph.node]
    assert len(found) == count
    # A product without a bias may have been turned round.
    turned = [any(each.name == "transB" and each.i for each in node.attribute) for node in graph.node]
    return [weight if is_turned else weight.t() for weight, is_turned in zip(found, turned, strict=True)]


def difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True))


def measure(name: str, layers: int, folder: Path) -> list[str]:
    bits, make = CASES[name]
    network = build(layers, make)
    encodings = list(network.encodings.values())
    wanted = [encoding.decode() for encoding in encodings]
    again = [restore(json.loads(json.dumps(each.config())), each.stored()).decode() for each in encodings]
    path, pt2 = folder / "case.onnx", folder / "case.pt2"
    export_onnx(network, path)
    export_pt2(network, pt2)
    x = torch.randn(BATCH, SIDE, generator=torch.Generator().manual_seed(1))
    program = torch.export.load(pt2).module()
    with torch.no_grad():
        answers = difference([program(x)], [network.graph(x)])
        of_pt2 = timed(lambda: program(x))
    apart = (difference(again, wanted), difference(weights_in(path, len(wanted)), wanted), answers)
    items = itemise_bytes(path).model_dump()
    size = path.stat().st_size
    assert sum(items.values()) == size, "the items do not sum to the file"
    promised = [encoding.bytes().model_dump() for encoding in encodings]
    bare = bits * layers * SIDE * SIDE / 8
    codes = sum(each["weights"] + each["indices"] for each in promised)
    dense = layers * SIDE * SIDE * 4
    opened = open_alone(path, folder / "dense.onnx")
    return [
        name,
        " / ".join("0" if value == 0 else f"{value:.0e}" for value in apart),
        f"{size / MILLION:.3f} ({dense / size:.1f}×)",
        f"{100 * ((size - items['graph']) / sum(sum(each.values()) for each in promised) - 1):+.2f} %",
        f"{100 * (codes / bare - 1):+.1f} %",
        f"{100 * items['graph'] / size:.2f} %",
        f"{opened['load']:.2f} ({opened['processor']:.2f})",
        f"{opened['peak'] * MIB / dense:.1f}",
        f"{opened['run']:.2f}",
        f"{of_pt2:.0f}",
    ]


HEAD = (
    "encoding",
    "apart: JSON / weights of .onnx / answers of .pt2",
    ".onnx MB (dense over it)",
    "stored over promised",
    "codes and positions over bare codes",
    "graph of file",
    "load s (processor)",
    "peak over dense",
    "run time over dense",
    ".pt2 run ms",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", type=int, default=25, help="weights in all; 25 million are 100 MB")
    parser.add_argument("--only", action="append", choices=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.million} M weights, {REPEATS} processes a file, one thread, load {os.getloadavg()[0]:.1f}")
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(build(arguments.million, Dense), Path(folder) / "dense.onnx")
        for name in arguments.only or CASES:
            print(f"| {' | '.join(measure(name, arguments.million, Path(folder)))} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
