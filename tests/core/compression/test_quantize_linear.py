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
from core.network.export import export_onnx
from core.network.export_check import check_onnx
from core.network.inspect import read
from core.network.network import Network
from core.specs.methods import METHODS
from core.specs.quantize import Calibration, LinearQuantization
from core.specs.recipe import Constraints

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
    assert [name.partition("_")[0] for name in report.plan["kept_float"]] == ["head"]
    given = probes(data)
    check_step(network, quantized, report, given)
    operators = optimised_operators(quantized, tmp_path, given)
    assert operators["MatMulIntegerToFloat"] == 4
    assert sum(isinstance(module, ActivationGrid) for module in quantized.graph.modules()) == 4
