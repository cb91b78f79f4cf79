"""`quantize.float`: half the bytes, what does not fit stays, masks stay, and 16-bit files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import fx, nn

from core.compression.candidates import put_encodings
from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.registry import method_of
from core.compression.train.mount import TrainableNetwork
from core.data.dataset import Dataset
from core.description import TensorDescription
from core.errors import ModelpressError
from core.measure.size import itemise_bytes
from core.network.encodings import Dense, Masked
from core.network.export import export_onnx
from core.network.network import Network
from core.specs.float import FloatQuantization
from core.specs.recipe import Constraints, Target

MakeContext = Callable[..., Context]
TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_the_nearest_numbers_in_half_the_bytes(
    name: str, residual: Network, context: MakeContext, images: Dataset, tmp_path: Path
) -> None:
    spec = FloatQuantization(type=name, keep_float=("stem",))
    made, report = method_of(spec).apply(residual, spec, replace(context(), dataset=None))
    assert "stem" not in report.layers
    assert report.findings == ()
    check_step(residual, made, report, (next(images.batches("evaluation", 16)).inputs[images.inputs[0].name],))
    for layer in report.layers:
        weight = residual.graph.get_parameter(f"{layer}.weight")
        assert torch.equal(made.graph.get_parameter(f"{layer}.weight"), weight.to(getattr(torch, name)).float())
        assert made.encodings[f"{layer}.weight"].bytes().weights == weight.numel() * 2
    export_onnx(made, tmp_path / "made.onnx")
    stored = [each for each in onnx.load(tmp_path / "made.onnx").graph.initializer if each.data_type == TYPES[name]]
    assert len(stored) == len(report.layers)
    promised = sum(encoding.bytes().weights for encoding in made.encodings.values())
    dense = 4 * residual.graph.get_parameter("stem.weight").numel()
    assert itemise_bytes(tmp_path / "made.onnx").weights == promised + dense


def test_what_does_not_fit_stays_and_is_told(residual: Network, context: MakeContext) -> None:
    loud = replace(residual, graph=put_encodings(residual, {}).graph)
    loud.graph.get_parameter("fc1.weight").data[0, 0] = 1e5
    loud.graph.get_parameter("fc2.weight").data[0, :2] = torch.tensor([1e-9, -2e-6])
    spec = FloatQuantization()
    made, report = method_of(spec).apply(loud, spec, context())
    assert "fc1" not in report.layers
    assert torch.equal(made.graph.get_parameter("fc1.weight"), loud.graph.get_parameter("fc1.weight"))
    assert {finding.code for finding in report.findings} == {"float_overflow", "float_underflow"}
    losses = report.plan["losses"]
    assert losses["fc1"]["beyond"] == 1
    assert losses["fc2"]["flushed"] == 1
    assert losses["fc2"]["subnormal"] >= 1
    brain = FloatQuantization(type="bfloat16")
    _, report = method_of(brain).apply(loud, brain, context())
    assert "fc1" in report.layers
    assert report.findings == ()


def test_biases_are_stored_in_16_bits_where_asked_for_and_trained_as_such(tmp_path: Path) -> None:
    modules = nn.ModuleDict({"wide": nn.Linear(6, 40), "narrow": nn.Linear(40, 4)})
    graph = fx.Graph()
    graph.output(graph.call_module("narrow", (graph.call_module("wide", (graph.placeholder("x"),)),)))
    ends = [TensorDescription(name=name, dtype="float32", shape=("batch", size)) for name, size in (("x", 6), ("y", 4))]
    network = Network(fx.GraphModule(modules, graph).eval(), (ends[0],), (ends[1],), {})
    spec = FloatQuantization(biases=True)
    quiet = Context(spec.method, 0, None, Target(), Constraints(), seed=0, emit=lambda _: None)
    made, report = method_of(spec).apply(network, spec, quiet)
    # Four biases take fewer bytes as they are.
    assert set(made.encodings) == {"wide.weight", "wide.bias", "narrow.weight"}
    assert report.layers == ("narrow", "wide")
    bias = made.encodings["wide.bias"]
    assert torch.equal(bias.decode(), network.graph.get_parameter("wide.bias").half().float())
    assert (bias.bytes().biases, bias.bytes().weights) == (80, 0)
    export_onnx(made, tmp_path / "made.onnx")
    assert itemise_bytes(tmp_path / "made.onnx").biases == 80 + 16
    trained = TrainableNetwork(made)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    again = trained.unmount()
    assert again.encodings["wide.bias"].kind == "half"
    assert not torch.equal(again.encodings["wide.bias"].decode(), bias.decode())


def test_a_mask_stays_and_what_is_smaller_already_is_left(residual: Network, context: MakeContext) -> None:
    weight = residual.graph.get_parameter("fc1.weight").detach()
    masked = put_encodings(residual, {"fc1.weight": Masked(weight.abs() > weight.abs().median(), Dense(weight))})
    spec = FloatQuantization()
    made, _ = method_of(spec).apply(masked, spec, context())
    assert made.encodings["fc1.weight"].kinds == ("masked", "half")
    assert not made.graph.get_parameter("fc1.weight")[weight.abs() <= weight.abs().median()].any()
    everything = tuple(name.removesuffix(".weight") for name in made.encodings)
    with pytest.raises(ModelpressError, match="left to quantize") as caught:
        method_of(spec).apply(made, FloatQuantization(keep_float=everything), context())
    assert caught.value.code == "unsupported_layer"
