"""`quantize.float`: half the bytes, what does not fit stays, masks stay, and 16-bit files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto

from core.compression.candidates import put_encodings
from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.registry import method_of
from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.measure.size import itemise_bytes
from core.network.encodings import Dense, Masked
from core.network.export import export_onnx
from core.network.network import Network
from core.specs.float import FloatQuantization

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
