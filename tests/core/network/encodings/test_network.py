"""Whole networks with encoded weights: what onnxruntime makes of their files, and that tied weights are stored once."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from core.compression.quantize.assembly import Plan, assemble, placement_of
from core.measure.costs import count_costs
from core.measure.size import itemise_bytes
from core.network.encodings import (
    AffineInteger,
    Codebook,
    Dense,
    Encoding,
    Grid,
    Levels,
    Masked,
    packed_grid,
    put_on,
    restore,
    symmetric_grid,
)
from core.network.export import export_onnx, export_pt2, export_safetensors
from core.network.export_graph import is_shared
from core.network.inspect import read
from core.network.network import Network
from tests.core.network.encodings.cases import affine, asymmetric, book_of, codebook, low_rank, mask_of, masked

MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Shape", "Concat", "Cast"}


class Seeing(nn.Module):
    """Convolutions of every kind that is written, and two products."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.fc1 = nn.Linear(6, 41)
        self.fc2 = nn.Linear(41, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.up(torch.relu(self.deep(torch.relu(self.stem(x)))))).mean((2, 3))
        return self.fc2(torch.relu(self.fc1(y)))


class Reading(nn.Module):
    """A table of embeddings that is the last product too, and a batched product between."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(300, 16)
        self.mix = nn.Linear(16, 16)
        self.head = nn.Linear(16, 300, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.table(ids))))


def encode(network: Network, encodings: dict[str, Encoding]) -> Network:
    for path, encoding in encodings.items():
        owner, _, name = path.rpartition(".")
        network.graph.get_submodule(owner).get_parameter(name).data = encoding.decode()
        network.encodings[path] = encoding
    return network


def weight_of(network: Network, path: str) -> Tensor:
    return network.graph.get_submodule(path).get_parameter("weight").detach()


@pytest.fixture
def seeing(save_pt2) -> Network:
    torch.manual_seed(0)
    network = read(save_pt2(Seeing(), torch.randn(2, 3, 8, 8)))
    makes = {
        "stem": masked(0.4, codebook(16)),
        "deep": affine(3),
        "up": asymmetric(4, 1),
        "fc1": low_rank,
        "fc2": lambda weight: Levels.binary(weight, axis=0),
    }
    return encode(network, {f"{path}.weight": make(weight_of(network, path)) for path, make in makes.items()})


@pytest.fixture
def reading(save_pt2) -> Network:
    torch.manual_seed(0)
    network = read(save_pt2(Reading(), torch.zeros(2, 5, dtype=torch.int64)))
    table = network.graph.get_parameter("head.weight").detach()
    book = Codebook.of(table, book_of(table, 64))
    named = network.graph.named_parameters(remove_duplicate=False)
    tied = [name for name, tensor in named if tensor.shape == (300, 16)]
    assert len(tied) == 2
    assert is_shared(network.graph, network.graph.get_parameter(tied[0]))
    mix = affine(5)(weight_of(network, "mix"))
    return encode(network, {**dict.fromkeys(tied, book), "mix.weight": mix})


def optimised(path: Path) -> onnx.GraphProto:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(path.with_suffix(".optimised")).graph


def stored_bytes(network: Network) -> Counter[str]:
    count: Counter[str] = Counter()
    for encoding in {id(each): each for each in network.encodings.values()}.values():
        count.update(encoding.bytes().model_dump())
    return count


def test_a_stock_runtime_runs_the_file_in_floats_and_finds_nothing_left_to_decode(
    seeing: Network, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(seeing, path)
    assert {entry.domain for entry in onnx.load(path).opset_import} == {""}
    graph = optimised(path)
    operators = Counter(node.op_type for node in graph.node)
    assert operators["Conv"] + operators["FusedConv"] + operators["ConvTranspose"] == 3
    assert set(operators) <= {"Conv", "FusedConv", "ConvTranspose", "Relu", "ReduceMean", "Gemm", "FusedGemm"}
    # One name a layer, so that its time can be told.
    assert {"stem", "deep", "up", "fc1", "fc2"} <= {node.name for node in onnx.load(path).graph.node}
    x = torch.randn(3, 3, 8, 8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {seeing.inputs[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, seeing.graph(x).numpy(), rtol=1e-4, atol=1e-5)
    items, wanted = itemise_bytes(path), stored_bytes(seeing)
    assert (items.indices, items.scales, items.codebooks) == (wanted["indices"], wanted["scales"], wanted["codebooks"])
    assert items.weights == wanted["weights"]
    costs = count_costs(path, {seeing.inputs[0].name: x.numpy()})
    assert costs.parameters == sum(parameter.numel() for parameter in seeing.graph.parameters())
    assert costs.macs == 64 * 8 * 27 + 64 * 8 * 9 + 64 * 8 * 6 * 4 + 6 * 41 + 41 * 7


def test_tied_weights_are_stored_once(reading: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(reading, path)
    assert itemise_bytes(path).indices == 300 * 16 * 6 // 8
    operators = {node.op_type for node in optimised(path).node}
    assert operators <= {"Gather", "MatMul", "FusedMatMul", "Add", "Tanh"} | MOVES
    assert len([tensor for tensor in optimised(path).initializer if tensor.dims == [300, 16]]) == 1


def plan_of(network: Network, layers: frozenset[str], grid: Grid, ranges: dict[str, tuple[float, float]]) -> Plan:
    weights = {layer: AffineInteger.of(weight_of(network, layer), grid=grid, axis=0) for layer in layers}
    return Plan(layers, weights, layers, ranges=ranges)


def test_packed_integers_keep_their_integer_kernels(save_pt2, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = read(save_pt2(Seeing(), torch.randn(2, 3, 8, 8)))
    layers = frozenset({"stem", "deep", "fc1", "fc2"})
    ranges = dict.fromkeys(placement_of(network, layers).sources, (0.0, 4.0))
    quantized = assemble(network, plan_of(network, layers, packed_grid(4), ranges))
    path = tmp_path / "model.onnx"
    export_onnx(quantized, path)
    operators = Counter(node.op_type for node in optimised(path).node)
    assert operators["QLinearConv"] == 2
    assert operators["QGemm"] == 2
    assert not {"Gather", "Mod"} & set(operators)
    weights = sum(weight_of(network, layer).numel() for layer in layers)
    assert itemise_bytes(path).weights < weights / 2 + 4 + weight_of(network, "up").numel() * 4


@pytest.mark.parametrize("grid", [symmetric_grid(7), symmetric_grid(7, unsigned=True), packed_grid(4)])
def test_masks_over_integers_keep_the_kernels_too(grid: Grid, save_pt2, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = read(save_pt2(Seeing(), torch.randn(2, 3, 8, 8)))
    layers = frozenset({"stem", "fc2"})
    ranges = dict.fromkeys(placement_of(network, layers).sources, (0.0, 4.0))
    quantized = assemble(network, plan_of(network, layers, grid, ranges))
    for layer in layers:
        weight = weight_of(quantized, layer)
        mask = Masked(mask_of(weight, 0.3), Dense(weight))
        made = put_on(quantized.encodings[f"{layer}.weight"], mask)
        encode(quantized, {f"{layer}.weight": made})
    # Compares the file with the network too.
    export_onnx(quantized, tmp_path / "model.onnx")
    operators = Counter(node.op_type for node in optimised(tmp_path / "model.onnx").node)
    assert (operators["QLinearConv"], operators["QGemm"], operators["ScatterElements"]) == (1, 1, 0)
    wanted = stored_bytes(quantized)
    assert itemise_bytes(tmp_path / "model.onnx").indices == wanted["indices"]


def test_every_format_gives_the_weights_back(seeing: Network, reading: Network, tmp_path: Path) -> None:
    for name, network in (("seeing", seeing), ("reading", reading)):
        path = tmp_path / f"{name}.safetensors"
        export_safetensors(network, path)
        with safe_open(path, "pt") as file:
            encodings = json.loads(file.metadata()["encodings"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dict
        for parameter, encoding in encodings.items():
            parts = {
                key[len(parameter) :].removeprefix("."): tensors[key] for key in tensors if key.startswith(parameter)
            }
            assert torch.equal(restore(encoding["config"], parts).decode(), network.encodings[parameter].decode())


@pytest.mark.slow
def test_pt2_is_small_plain_aten_and_loads_in_a_fresh_interpreter(seeing: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    export_pt2(seeing, path)
    program = torch.export.load(path)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in operators), operators
    stored = [tensor for name, tensor in program.state_dict.items() if name.startswith(("stem.weight", "deep.weight"))]
    assert sum(tensor.nbytes for tensor in stored) == sum(
        sum(seeing.encodings[f"{layer}.weight"].bytes().model_dump().values()) for layer in ("stem", "deep")
    )
    x = torch.randn(2, 3, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    script = "import sys, torch; print(torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2])).sum().item())"
    command = [sys.executable, "-I", "-W", "ignore", "-c", script, str(path), str(tmp_path / "x.pt")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    with torch.no_grad():
        assert float(answer.stdout) == pytest.approx(float(seeing.graph(x).sum()), rel=1e-4)


def test_written_files_are_read_again(seeing: Network, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    for export, name in ((export_pt2, "model.pt2"), (export_onnx, "model.onnx")):
        export(seeing, tmp_path / name)
        again = read(tmp_path / name)
        with torch.no_grad():
            assert torch.allclose(again.graph(x), seeing.graph(x), atol=1e-5)
