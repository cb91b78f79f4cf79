from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.quantize.linear import LinearQuantizer
from core.compression.registry import known_specs
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.measure.runtime import open_session, run_session
from core.messages import MetricMessage
from core.network.encodings import ActivationGrid
from core.network.export import export_onnx, export_pt2
from core.network.export_check import check_onnx
from core.network.inspect import read
from core.network.network import Network
from core.specs.calibration import Calibration
from core.specs.linear import LinearQuantization
from core.specs.methods import METHODS
from core.specs.recipe import Constraints
from tests.core.compression.conftest import save

MakeContext = Callable[..., Context]
LAYERS = {"stem", "one.conv1", "one.conv2", "one.short", "two.conv1", "two.conv2", "two.short", "fc1", "fc2"}


def probes(dataset: Dataset) -> tuple[torch.Tensor, ...]:
    return (next(dataset.batches("evaluation", 64)).inputs[dataset.inputs[0].name],)


def optimised_operators(network: Network, folder: Path, given: tuple[torch.Tensor, ...]) -> Counter[str]:
    export_onnx(network, folder / "model.onnx", probes=given)
    open_session(folder / "model.onnx", 1, optimised_to=folder / "optimised.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_every_spec_has_a_method() -> None:
    assert known_specs() == frozenset(METHODS)


def test_onnxruntime_runs_all_layers_and_sums_on_integers(
    residual: Network, context: MakeContext, images: Dataset, tmp_path: Path
) -> None:
    quantized, report = LinearQuantizer().apply(residual, LinearQuantization(), context())
    operators = optimised_operators(quantized, tmp_path, probes(images))
    assert set(report.layers) == LAYERS
    assert operators["QLinearConv"] == 7
    assert operators["QGemm"] == 2
    assert operators["QLinearAdd"] == 2
    assert not {"Conv", "Gemm", "Add", "MaxPool", "Relu", "DequantizeLinear"} & set(operators)
    assert operators["QuantizeLinear"] == 1


def test_the_file_answers_as_the_original_does(
    residual: Network, context: MakeContext, images: Dataset, tmp_path: Path, told: list[object]
) -> None:
    quantized, report = LinearQuantizer().apply(residual, LinearQuantization(), context())
    check_step(residual, quantized, report, probes(images))
    export_onnx(quantized, tmp_path / "model.onnx", probes=probes(images))
    feed = {images.inputs[0].name: probes(images)[0].numpy()}
    (found,) = run_session(open_session(tmp_path / "model.onnx", 1), feed)
    with torch.no_grad():
        wanted = residual.graph(*probes(images)).numpy()
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.95
    assert np.square(found - wanted).sum() < 1e-2 * np.square(wanted).sum()
    for layer in LAYERS:
        assert report.sensitivities[layer].sqnr_db > 20
    assert {message.conditions["layer"] for message in told if isinstance(message, MetricMessage)} == LAYERS


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_every_calibration_keeps_most_answers(
    residual: Network, context: MakeContext, images: Dataset, method: str
) -> None:
    spec = LinearQuantization(calibration=Calibration(method=method, samples=128))
    quantized, _ = LinearQuantizer().apply(residual, spec, context())
    with torch.no_grad():
        found, wanted = quantized.graph(*probes(images)), residual.graph(*probes(images))
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.9


def test_a_rounded_file_that_computes_something_else_is_noticed(
    residual: Network, context: MakeContext, images: Dataset, tmp_path: Path
) -> None:
    quantized, _ = LinearQuantizer().apply(residual, LinearQuantization(), context())
    given = probes(images)
    export_onnx(quantized, tmp_path / "model.onnx", probes=given)
    check_onnx(quantized, tmp_path / "model.onnx", given)
    model = onnx.load(tmp_path / "model.onnx")
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.1), tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ModelpressError) as caught:
        check_onnx(quantized, tmp_path / "wrong.onnx", given)
    assert caught.value.code == "export_disagrees"


def test_it_is_deterministic(residual: Network, context: MakeContext) -> None:
    first, one = LinearQuantizer().apply(residual, LinearQuantization(), context())
    second, two = LinearQuantizer().apply(residual, LinearQuantization(), context())
    assert one.plan == two.plan
    for name, tensor in first.graph.state_dict().items():
        assert torch.equal(tensor, second.graph.state_dict()[name]), name


def test_layers_kept_float_stay_bit_identical_and_float(
    residual: Network, context: MakeContext, images: Dataset, tmp_path: Path
) -> None:
    spec = LinearQuantization(keep_float=("stem", "fc1"))
    quantized, report = LinearQuantizer().apply(residual, spec, context())
    assert set(report.layers) == LAYERS - {"stem", "fc1"}
    check_step(residual, quantized, report, probes(images))
    operators = optimised_operators(quantized, tmp_path, probes(images))
    assert operators["QLinearConv"] == 6
    assert operators["QGemm"] == 1


def test_a_limit_that_cannot_hold_leaves_layers_float(residual: Network, context: MakeContext) -> None:
    spec = LinearQuantization(saturation="full_range", calibration=Calibration(method="percentile", percentile=60.0))
    quantized, report = LinearQuantizer().apply(residual, spec, context(Constraints(max_drop=0.0)))
    assert [finding.code for finding in report.findings][:1] == ["layers_kept_float"]
    assert set(report.plan["kept_float"]) == LAYERS - set(report.layers)
    assert len(report.layers) < len(LAYERS)
    for layer in report.plan["kept_float"]:
        weight = f"{layer}.weight"
        assert torch.equal(quantized.graph.state_dict()[weight], residual.graph.state_dict()[weight])


def test_without_data_it_says_what_is_missing(residual: Network, context: MakeContext) -> None:
    with pytest.raises(ModelpressError) as caught:
        LinearQuantizer().apply(residual, LinearQuantization(), replace(context(), dataset=None))
    assert caught.value.code == "missing_data"


def test_tied_and_batched_layers(attention_file: Path, context: MakeContext, tmp_path: Path) -> None:
    network = read(attention_file)
    text = np.random.default_rng(0).integers(0, 11, 900).astype(np.uint8)
    np.savez(tmp_path / "text.npz", a=text[:600], b=text[600:])
    spec = DatasetSpec(
        task="language_modelling", splits={"train": SplitArrays(x="a"), "evaluation": SplitArrays(x="b")}
    )
    data = open_dataset([tmp_path / "text.npz"], spec, network.inputs)
    quantized, report = LinearQuantizer().apply(network, LinearQuantization(), replace(context(), dataset=data))
    assert set(report.layers) == {"qkv", "out", "mlp1", "mlp2"}
    assert [name.partition("_")[0] for name in report.plan["kept_float"]] == ["head", "head"]
    given = probes(data)
    check_step(network, quantized, report, given)
    operators = optimised_operators(quantized, tmp_path, given)
    assert operators["MatMulIntegerToFloat"] == 4
    assert sum(isinstance(module, ActivationGrid) for module in quantized.graph.modules()) == 4


class Words(torch.nn.Module):
    """Two tables, one of them looked up at fixed rows, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = torch.nn.Embedding(9000, 16), torch.nn.Embedding(9, 16)
        self.head = torch.nn.Linear(16, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids) + self.places(torch.arange(ids.shape[1])))


@pytest.fixture
def words(tmp_path: Path) -> tuple[Network, Dataset]:
    torch.manual_seed(0)
    module = Words()
    # Rows of very different size: one scale for all of them would lose the small ones.
    module.words.weight.data *= torch.logspace(-3, 0, 9000).unsqueeze(1)
    network = read(save(module, torch.zeros(2, 9, dtype=torch.int64), tmp_path / "words.pt2"))
    ids = np.random.default_rng(0).integers(0, 9000, (256, 9))
    np.savez(tmp_path / "ids.npz", a=ids[:128], b=ids[128:])
    spec = DatasetSpec(task="none", splits={"calibration": SplitArrays(x="a"), "evaluation": SplitArrays(x="b")})
    return network, open_dataset([tmp_path / "ids.npz"], spec, network.inputs)


def test_tables_are_looked_up_as_integers(words: tuple[Network, Dataset], context: MakeContext, tmp_path: Path) -> None:
    network, data = words
    quantized, report = LinearQuantizer().apply(network, LinearQuantization(), replace(context(), dataset=data))
    assert set(report.layers) == {"words", "places", "head"}
    given = probes(data)
    check_step(network, quantized, report, given)
    optimised_operators(quantized, tmp_path, given)
    # What onnxruntime keeps in memory: the table in bytes, and nothing of its size in floats.
    stored = {
        tuple(tensor.dims): tensor.data_type for tensor in onnx.load(tmp_path / "optimised.onnx").graph.initializer
    }
    assert stored[9000, 16] == onnx.TensorProto.INT8
    assert [shape for shape, kind in stored.items() if kind == onnx.TensorProto.FLOAT and np.prod(shape) > 9000] == []
    wanted = network.graph.get_submodule("words")(given[0])
    found = quantized.graph.get_submodule("words")(given[0])
    # 8 bits of each row's own range.
    assert bool(((found - wanted).abs() <= wanted.abs().amax(-1, keepdim=True) / 127 / 2 * 1.001).all())
    export_pt2(quantized, tmp_path / "model.pt2", probes=given)
    assert torch.export.load(tmp_path / "model.pt2").state_dict["words.weight"].dtype is torch.int8
    with torch.no_grad():
        assert torch.allclose(read(tmp_path / "model.pt2").graph(*given), quantized.graph(*given), atol=1e-6)


def test_a_table_can_stay_float(words: tuple[Network, Dataset], context: MakeContext) -> None:
    network, data = words
    spec = LinearQuantization(keep_float=("words",))
    quantized, report = LinearQuantizer().apply(network, spec, replace(context(), dataset=data))
    assert "words" not in report.layers
    assert torch.equal(
        quantized.graph.get_submodule("words").get_parameter("weight"), network.graph.get_submodule("words").weight
    )
