"""What `quantize.linear` makes of networks and data that are not as they should be: a result or a sentence, no NaN."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.quantize.linear import LinearQuantizer
from core.data.dataset import Dataset, open_dataset
from core.data.synthetic import Known, synthesise
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.network.encodings import ActivationGrid
from core.network.export import export_onnx
from core.network.inspect import inspect, read
from core.network.network import Network
from core.specs.linear import LinearQuantization
from tests.core.compression.conftest import save

Make = Callable[[], Context]


class One(nn.Module):
    """A convolution and a product with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(2, 6, 3, padding=1), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(One(), torch.randn(2, 2, 8), tmp_path_factory.mktemp("one") / "one.pt2")


@pytest.fixture
def one(file: Path) -> Network:
    return read(file)


def data(network: Network, folder: Path, values: np.ndarray) -> Dataset:
    np.savez(folder / "x.npz", x=values.astype(np.float32), y=values.astype(np.float32))
    spec = DatasetSpec(task="none", splits={"calibration": SplitArrays(x="x"), "evaluation": SplitArrays(x="y")})
    return open_dataset([folder / "x.npz"], spec, network.inputs)


def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((32, 2, 8))


def dead(network: Network) -> None:
    network.graph.get_parameter("conv.weight").data[1:] = 0
    network.graph.get_parameter("conv.bias").data[1:] = -1


def zero(network: Network) -> None:
    for parameter in network.graph.parameters():
        parameter.data.zero_()


def equal(network: Network) -> None:
    for parameter in network.graph.parameters():
        parameter.data.fill_(0.25)


def denormal(network: Network) -> None:
    network.graph.get_parameter("conv.weight").data.mul_(1e-40)


def large(network: Network) -> None:
    network.graph.get_parameter("fc.weight").data.mul_(1e30)


ASKED = ({}, {"weights": {"bits": 2, "symmetric": False}, "activations": {"bits": 4, "scale": "power_of_two"}})


@pytest.mark.parametrize("spoil", [dead, zero, equal, denormal, large])
@pytest.mark.parametrize("asked", ASKED, ids=["8 bits", "few bits"])
def test_odd_weights_give_a_network_of_numbers(
    spoil: Callable[[Network], None], asked: dict[str, object], one: Network, context: Make, tmp_path: Path
) -> None:
    spoil(one)
    dataset = data(one, tmp_path, noise())
    spec = LinearQuantization.model_validate(asked)
    quantized, report = LinearQuantizer().apply(one, spec, replace(context(), dataset=dataset))
    given = (next(dataset.batches("evaluation", 8)).inputs["x"],)
    # Finite outputs and legal encodings.
    check_step(one, quantized, report, given)
    for encoding in quantized.encodings.values():
        assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in encoding.stored().values())
    if spoil is not large:
        with torch.no_grad():
            wanted, found = one.graph(*given), quantized.graph(*given)
        assert float((found - wanted).norm()) <= (0.7 if asked else 0.05) * float(wanted.norm()) + 1e-6


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-41])
def test_constant_activations_have_a_grid(value: float, one: Network, context: Make, tmp_path: Path) -> None:
    dataset = data(one, tmp_path, np.full((32, 2, 8), value))
    quantized, report = LinearQuantizer().apply(one, LinearQuantization(), replace(context(), dataset=dataset))
    given = (next(dataset.batches("evaluation", 8)).inputs["x"],)
    check_step(one, quantized, report, given)
    scales = [float(each.scale) for each in quantized.graph.modules() if isinstance(each, ActivationGrid)]
    assert all(0 < scale < float("inf") for scale in scales)
    with torch.no_grad():
        assert torch.allclose(quantized.graph(*given), one.graph(*given), atol=0.02)
    export_onnx(quantized, tmp_path / "model.onnx", probes=given)


@pytest.mark.parametrize("bad", ["weight", "bias", "inside"])
def test_what_is_no_number_is_named(bad: str, one: Network, context: Make, tmp_path: Path) -> None:
    if bad == "inside":
        one.graph.get_parameter("conv.weight").data.fill_(3e38)
    else:
        one.graph.get_parameter(f"conv.{bad}").data[0] = float("nan")
    dataset = data(one, tmp_path, noise())
    for asked in ({}, {"weights": {"bits": 4}, "activations": None}):
        spec = LinearQuantization.model_validate(asked)
        with pytest.raises(ModelpressError) as caught:
            LinearQuantizer().apply(one, spec, replace(context(), dataset=dataset))
        assert caught.value.code == "non_finite"
        assert "conv" in caught.value.detail


def test_without_data_inputs_are_drawn(one: Network, context: Make) -> None:
    drawn = synthesise(one.inputs, Known(), 0)
    for asked in ({}, {"weights": {"bits": 4}, "activations": None}):
        spec = LinearQuantization.model_validate(asked)
        quantized, report = LinearQuantizer().apply(one, spec, replace(context(), dataset=drawn))
        assert set(report.sensitivities) == {"conv", "fc"}
        # What is drawn says nothing of means; it corrects only where it calibrates, too.
        corrected = not torch.equal(quantized.graph.get_parameter("fc.bias"), one.graph.get_parameter("fc.bias"))
        assert corrected == bool(spec.calibration_samples())


@pytest.mark.parametrize(
    "asked",
    [
        {"weights": {"bits": 1}},
        {"weights": {"bits": 9}},
        {"weights": {"group_size": 8}},
        {"weights": {"per": "group", "group_size": 1}},
        {"activations": {"bits": 12}},
        {"activations": {"bits": 4, "mode": "dynamic"}},
        {"activations": {"mode": "dynamic", "scale": "power_of_two"}},
        {"layers": {"conv": {"bits": 4}}},
    ],
)
def test_what_no_runtime_has_is_refused_before_anything_runs(asked: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LinearQuantization.model_validate(asked)


def test_names_that_are_none_are_said(file: Path) -> None:
    description = inspect(file)
    for asked in ({"keep_float": ["conv9"]}, {"layers": {"conv9": {}}}):
        capability = LinearQuantization.model_validate(asked).requires(description)
        assert not capability.ok
        assert "conv9" in (capability.why or "")


def test_what_is_quantized_already_is_said(one: Network, context: Make, tmp_path: Path) -> None:
    dataset = data(one, tmp_path, noise())
    quantized, _ = LinearQuantizer().apply(one, LinearQuantization(), replace(context(), dataset=dataset))
    export_onnx(quantized, tmp_path / "done.onnx")
    capability = LinearQuantization().requires(inspect(tmp_path / "done.onnx"))
    assert not capability.ok
    assert "quantized already" in (capability.why or "")


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_less_than_a_batch_of_data_is_said(mode: str, one: Network, context: Make, tmp_path: Path) -> None:
    bound = replace(one, inputs=(one.inputs[0].model_copy(update={"shape": (40, 2, 8)}),))
    job = replace(context(), dataset=data(one, tmp_path, noise()))
    spec = LinearQuantization.model_validate({"activations": {"mode": mode}, "bias_correction": False})
    with pytest.raises(ModelpressError, match="too few samples for one batch") as caught:
        LinearQuantizer().apply(bound, spec, job)
    assert caught.value.code == "missing_data"
