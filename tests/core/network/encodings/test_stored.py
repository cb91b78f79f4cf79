"""Every encoding: to JSON and back, to ATen nodes, to ONNX that onnxruntime folds while it loads."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from core.measure.size import itemise_bytes
from core.network.encodings import Emission, Encoding, Masked, Written, restore
from core.network.encodings.onnx_writer import OnnxWriter
from core.network.encodings.operators import DOMAIN, STORED
from core.network.encodings.packing import PLANES, Packed, packed_size
from core.network.encodings.positions import Positions
from core.network.export_compact import PRODUCER, short_names
from core.network.export_stored import ROUNDS, put_stored
from tests.core.network.encodings.cases import CASES, sample


def equal(found: Tensor, wanted: Tensor, name: str) -> bool:
    return torch.allclose(found, wanted, atol=1e-6) if name.startswith("low rank") else torch.equal(found, wanted)


STAGED = (
    "int3", "int7", "int4 in groups", "uint4 in groups", "codebook of 100", "2 codebooks of 7", "half masked", "masked",
    "masked over codebook of 5", "masked over 2 codebooks of 7", "masked over int4 in groups",
    "low rank of a masked codebook",
)  # fmt: skip


def onnx_file(encoding: Encoding, path: Path, *, staged: bool = False, start: int = 0) -> Path:
    """A model that adds its input, a scalar, to the weight."""
    writer = OnnxWriter(short_names({"x", "y"}))
    writer.begin("conv.weight", staged=staged, start=start)
    value = encoding.write(writer)
    nodes = [*writer.nodes, helper.make_node("Add", ["x", value], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], writer.initializers)
    model = helper.make_model(graph, producer_name=PRODUCER, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_folds_the_promised_bytes_to_the_decoded_weight(name: str, tmp_path: Path) -> None:
    encoding = CASES[name](sample())
    path = onnx_file(encoding, tmp_path / "model.onnx")
    promised, found = encoding.bytes().model_dump(), itemise_bytes(path).model_dump()
    assert sum(found.values()) == path.stat().st_size
    # Where no kernel needs them, zero points that are all the same are not written.
    spared = encoding.shape[0] if name in {"int8 for kernels", "uint8", "masked over uint8"} else 0
    assert {**found, "graph": 0} == {**promised, "scales": promised["scales"] - spared}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (weight,) = session.run(None, {"x": np.zeros((), np.float32)})
    assert equal(torch.from_numpy(weight), encoding.decode(), name)
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    assert [node.op_type for node in optimised.node] == ["Add"]
    assert [(tuple(tensor.dims), tensor.data_type) for tensor in optimised.initializer] == [
        (encoding.shape, TensorProto.FLOAT)
    ]


@pytest.mark.parametrize(
    ("name", "start"), [*((name, 0) for name in STAGED), *((name, ROUNDS - 1) for name in (*STAGED, "float16"))]
)
def test_stages_are_folded_too_and_store_the_same(name: str, start: int, tmp_path: Path) -> None:
    encoding = CASES[name](sample())
    path = onnx_file(encoding, tmp_path / "model.onnx", staged=not start, start=start)
    assert "If" in {node.op_type for node in onnx.load(path).graph.node}
    found = itemise_bytes(path).model_dump()
    assert {**found, "graph": 0} == encoding.bytes().model_dump()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (weight,) = session.run(None, {"x": np.zeros((), np.float32)})
    assert equal(torch.from_numpy(weight), encoding.decode(), name)
    # Not more rounds of folding than onnxruntime makes.
    assert [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node] == ["Add"]


@pytest.mark.parametrize(("side", "staged"), [(2048, True), (200, False)])
def test_only_large_networks_are_written_in_stages(side: int, staged: bool) -> None:
    written = Written()
    encoding = CASES["int7"](torch.ones(side, side))
    key = written.add(encoding, "fc.weight", encoding.write, torch.float32)
    node = helper.make_node(STORED, [], ["w"], domain=DOMAIN, key=key)
    model = put_stored(helper.make_model(helper.make_graph([node], "g", [], [])), written)
    assert ("If" in {node.op_type for node in model.graph.node}) == staged


def test_the_weights_of_a_large_network_are_begun_in_turns(tmp_path: Path) -> None:
    written, nodes = Written(), []
    encodings = [CASES["int4"](sample((600, 600), number)) for number in range(2 * ROUNDS)]
    for number, encoding in enumerate(encodings):
        key = written.add(encoding, f"fc{number}.weight", encoding.write, torch.float32)
        nodes.append(helper.make_node(STORED, [], [f"w{number}"], domain=DOMAIN, key=key))
    names = [node.output[0] for node in nodes]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph([*nodes, helper.make_node("Max", ["x", *names], ["y"])], "g", [x], [y])
    model = put_stored(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), written)
    onnx.save(model, tmp_path / "model.onnx")
    found = rounds_of(model.graph, names)
    assert {number: found.count(number) for number in range(ROUNDS)} == dict.fromkeys(range(ROUNDS), 2)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    (weight,) = session.run(None, {"x": np.full((), -1e9, np.float32)})
    assert torch.equal(torch.from_numpy(weight), torch.stack([each.decode() for each in encodings]).amax(0))
    assert [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node] == ["Max"]


def rounds_of(graph: onnx.GraphProto, last: list[str]) -> list[int]:
    """For each input of the last node, how many Ifs come one after the other before it is known."""
    depths: dict[str, int] = {}
    for node in graph.node:
        inner = [each for attribute in node.attribute for each in attribute.g.node]
        inputs = [*node.input, *(name for each in inner for name in each.input)]
        depths[node.output[0]] = max((depths.get(name, 0) for name in inputs), default=0) + (node.op_type == "If")
    assert len(graph.node[-1].input) == len(last) + 1
    return [depths[name] for name in graph.node[-1].input[1:]]


@pytest.mark.parametrize("name", CASES)
def test_json_and_tensors_give_it_again(name: str) -> None:
    encoding = CASES[name](sample())
    again = restore(json.loads(json.dumps(encoding.config())), encoding.stored())
    assert torch.equal(again.decode(), encoding.decode())
    assert (again.name, again.kinds, again.config()) == (encoding.name, encoding.kinds, encoding.config())
    stored = encoding.stored()
    assert sum(encoding.bytes().model_dump().values()) == sum(each.nbytes for each in stored.values())
    for suffix, tensor in stored.items():
        assert torch.equal(again.stored()[suffix], tensor), suffix


@pytest.mark.parametrize("name", CASES)
def test_plain_aten_nodes_give_it(name: str) -> None:
    encoding = CASES[name](sample())
    module = fx.GraphModule({"conv": nn.Module()}, fx.Graph())
    module.add_submodule("conv", nn.Module())
    module.graph.output(encoding.emit_pt2(Emission(module, "conv.weight")))
    module.recompile()
    assert equal(module(), encoding.decode(), name)
    operators = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    assert all(operator.startswith("aten.") for operator in operators), operators


@pytest.mark.parametrize("name", CASES)
def test_projecting_is_idempotent_and_keeps_the_mask(name: str) -> None:
    encoding = CASES[name](sample())
    projected = encoding.project(sample(seed=1))
    if not name.startswith("low rank of"):  # Each factor has its own grid.
        assert torch.allclose(encoding.project(projected), projected, atol=1e-6)
        assert torch.allclose(encoding.project(encoding.decode()), encoding.decode(), atol=1e-6)
    if isinstance(encoding, Masked):
        assert not projected[~encoding.mask].any()


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(PLANES)), st.integers(0, 70), st.integers(0, 2**31))
def test_codes_are_packed_without_loss(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    packed = Packed.of(codes, bits)
    assert torch.equal(packed.codes(), codes)
    assert torch.equal(Packed.split(packed.joined(), bits, count).codes(), codes)
    assert packed.size == packed_size(count, bits) <= (count + 7) // 8 * bits


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.integers(1, 3000), st.integers(0, 2**31))
def test_positions_are_kept_in_the_smaller_form(density: float, size: int, seed: int) -> None:
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < density
    positions = Positions.of(mask)
    assert torch.equal(positions.mask(), mask)
    stored = positions.joined()
    assert stored.numel() <= (size + 7) // 8
    again = Positions.split(positions.form, size, stored, bits=positions.codes.bits, count=positions.codes.count)
    assert torch.equal(again.mask(), mask)


@pytest.mark.parametrize("density", [0.01, 0.03, 0.08, 0.2])
def test_a_sparse_mask_takes_hardly_more_than_its_entropy(density: float) -> None:
    mask = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) < density
    positions = Positions.of(mask)
    assert positions.form == "gaps"
    entropy = (density * math.log2(1 / density) + (1 - density) * math.log2(1 / (1 - density))) / density
    assert positions.joined().numel() * 8 / int(mask.sum()) < 1.04 * entropy
