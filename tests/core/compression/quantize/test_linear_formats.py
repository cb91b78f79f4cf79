"""The number formats of `quantize.linear`, each on a small network of its own."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from core.compression.candidates import put_encodings
from core.compression.checks import check_step
from core.compression.quantize.linear import LinearQuantizer
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.measure.engine import ONNXRUNTIME, OPENVINO, open_engine
from core.measure.runtime import open_session
from core.measure.size import itemise_bytes
from core.messages import Message, ProgressMessage
from core.network.checkpoint import read_network, write_network
from core.network.encodings import ActivationGrid, Dense, DynamicGrid, Masked
from core.network.export import export_onnx, export_pt2
from core.network.inspect import read
from core.network.network import Network
from core.specs.linear import LayerGrid, LinearQuantization, WeightGrid
from core.specs.recipe import Target
from tests.core.compression.conftest import save

INT8 = onnx.TensorProto.INT8
WEIGHTS = 8 * 27 + 8 * 72 + 10 * 128 + 4 * 10


class Small(nn.Module):
    """Two convolutions, a pool, a table's worth of products: what each kernel is for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.fc1, self.fc2 = nn.Linear(128, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.conv2(torch.relu(self.conv1(x)))), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(Small(), torch.randn(2, 3, 8, 8), tmp_path_factory.mktemp("small") / "small.pt2")


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    noise = np.random.default_rng(0).standard_normal((96, 3, 8, 8)).astype(np.float32)
    np.savez(path, a=noise[:64], b=noise[64:], c=noise)
    return path


NOISE = DatasetSpec(task="none", splits={"calibration": SplitArrays(x="a"), "evaluation": SplitArrays(x="b")})


@pytest.fixture
def small(file: Path) -> Network:
    return read(file)


@pytest.fixture
def noise(data_file: Path, small: Network) -> Dataset:
    return open_dataset([data_file], NOISE, small.inputs)


@pytest.fixture
def given(noise: Dataset) -> tuple[Tensor, ...]:
    return (next(noise.batches("evaluation", 16)).inputs[noise.inputs[0].name],)


def difference(found: Network, wanted: Network, given: tuple[Tensor, ...]) -> float:
    with torch.no_grad():
        one, other = found.graph(*given), wanted.graph(*given)
    return float((one - other).square().sum().sqrt() / other.square().sum().sqrt())


def operators(network: Network, folder: Path, given: tuple[Tensor, ...]) -> Counter[str]:
    """What onnxruntime makes of the file, which was compared with the network when it was written."""
    export_onnx(network, folder / "model.onnx", probes=given)
    open_session(folder / "model.onnx", 1, optimised_to=folder / "optimised.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


INTEGERS = {"QLinearConv": 2, "QGemm": 2}
FLOATS = {"Conv": 2, "FusedGemm": 1, "Gemm": 1}
FORMATS = {
    "weights of 3 bits in groups": (
        {"weights": {"bits": 3, "per": "group", "group_size": 9}, "activations": None},
        3,
        FLOATS,
        0.3,
    ),
    "asymmetric, powers of two": (
        {"weights": {"bits": 5, "symmetric": False, "scale": "power_of_two"}, "activations": None},
        5,
        FLOATS,
        0.15,
    ),
    "weights of 2 bits on integers": ({"weights": {"bits": 2}}, 2, INTEGERS, 0.7),
    "asymmetric with one zero point": (
        {"weights": {"bits": 4, "symmetric": False, "per": "tensor"}},
        4,
        INTEGERS,
        0.2,
    ),
    "4 bits everywhere": ({"weights": {"bits": 4}, "activations": {"bits": 4}}, 4, INTEGERS, 0.3),
    "fixed point": (
        {
            "weights": {"bits": 6, "scale": "power_of_two"},
            "activations": {"bits": 7, "scale": "power_of_two", "symmetric": True},
        },
        6,
        INTEGERS,
        0.1,
    ),
    "16-bit activations": ({"weights": {"bits": 6}, "activations": {"bits": 16}}, 6, {"Conv": 2, "Round": 6}, 0.05),
    "dynamic": (
        {"weights": {"bits": 6}, "activations": {"mode": "dynamic"}},
        6,
        {"Conv": 2, "DynamicQuantizeMatMul": 2},
        0.05,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_what_the_file_holds_and_runs(
    name: str, small: Network, noise: Dataset, given: tuple[Tensor, ...], context, tmp_path: Path
) -> None:
    asked, bits, kernels, most = FORMATS[name]
    spec = LinearQuantization.model_validate(asked)
    quantized, report = LinearQuantizer().apply(small, spec, replace(context(), dataset=noise))
    check_step(small, quantized, report, given)
    assert set(report.layers) == set(report.sensitivities) == {"conv1", "conv2", "fc1", "fc2"}
    found = operators(quantized, tmp_path, given)
    assert kernels.items() <= found.items()
    stored = itemise_bytes(tmp_path / "model.onnx").weights
    # Each weight is filled up to whole bytes.
    assert abs(stored - WEIGHTS * bits / 8) <= 8
    assert difference(quantized, small, given) < most


def test_for_openvino_activations_of_both_signs_have_no_zero_point(
    small: Network, noise: Dataset, given: tuple[Tensor, ...], context, tmp_path: Path
) -> None:
    ours = replace(context(), dataset=noise, target=Target(runtime="openvino-cpu"))
    quantized, _ = LinearQuantizer().apply(small, LinearQuantization(), ours)
    usual, _ = LinearQuantizer().apply(small, LinearQuantization(), replace(ours, target=Target()))
    files = tmp_path / "network.json", tmp_path / "network.safetensors"
    write_network(quantized, *files)
    for network, signed in ((quantized, 2), (read_network(*files), 2), (usual, 0)):
        path = tmp_path / f"{signed}.onnx"
        export_onnx(network, path, probes=given)
        model = onnx.load(path)
        zeros = {each.name: each for each in model.graph.initializer}
        found = [zeros[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        # The input and the first product of no ReLU are about as far from zero on both sides.
        assert {onnx.numpy_helper.to_array(each).item() for each in found if each.data_type == INT8} <= {0}
        assert (sum(each.data_type == INT8 for each in found) > 0) is (signed > 0)
    feed = {small.inputs[0].name: given[0].numpy()}
    here, there = (open_engine(name, tmp_path / "2.onnx", 1).run(feed)[0] for name in (ONNXRUNTIME, OPENVINO))
    assert difference(quantized, small, given) < 0.05
    np.testing.assert_allclose(there, here, atol=0.02 * np.abs(here).max())


def test_pt2_and_checkpoints_hold_the_grids_too(
    small: Network, noise: Dataset, given: tuple[Tensor, ...], context, tmp_path: Path
) -> None:
    for activations, kind in (({"bits": 5}, ActivationGrid), ({"mode": "dynamic"}, DynamicGrid)):
        spec = LinearQuantization.model_validate({"weights": {"bits": 3}, "activations": activations})
        quantized, _ = LinearQuantizer().apply(small, spec, replace(context(), dataset=noise))
        # The archive is compared with the network when it is written.
        export_pt2(quantized, tmp_path / "model.pt2", probes=given)
        files = tmp_path / "network.json", tmp_path / "network.safetensors"
        write_network(quantized, *files)
        restored = read_network(*files)
        assert difference(restored, quantized, given) == 0
        grids = [each for each in restored.graph.modules() if isinstance(each, kind)]
        assert grids
        assert all(each.bits == 5 for each in grids if isinstance(each, ActivationGrid))


def test_weights_alone_need_no_data(small: Network, given: tuple[Tensor, ...], context) -> None:
    spec = LinearQuantization.model_validate({"weights": {"bits": 4}, "activations": None})
    assert spec.calibration_samples() == 0
    quantized, report = LinearQuantizer().apply(small, spec, replace(context(), dataset=None))
    check_step(small, quantized, report, given)
    assert report.sensitivities == {}
    assert torch.equal(quantized.graph.get_parameter("fc1.bias"), small.graph.get_parameter("fc1.bias"))


def test_biases_take_back_the_mean(small: Network, noise: Dataset, context) -> None:
    inputs = (next(noise.batches("calibration", 64)).inputs[noise.inputs[0].name],)

    def moved(*, correct: bool) -> float:
        spec = LinearQuantization(weights=WeightGrid(bits=2), activations=None, bias_correction=correct)
        quantized, _ = LinearQuantizer().apply(small, spec, replace(context(), dataset=noise))
        with torch.no_grad():
            return float((quantized.graph(*inputs) - small.graph(*inputs)).mean(0).norm())

    assert moved(correct=True) < 0.6 * moved(correct=False)


@pytest.mark.parametrize("during", ["Ranges: 0", "Scales of fc1", "Correcting biases: 64"])
def test_a_cancel_is_noticed_while_samples_pass(during: str, small: Network, data_file: Path, context) -> None:
    class CancelledError(Exception):
        pass

    def stop(message: Message) -> None:
        if isinstance(message, ProgressMessage) and message.message.startswith(during):
            raise CancelledError

    told = DatasetSpec(task="none", splits={"calibration": SplitArrays(x="c")})
    job = replace(context(), dataset=open_dataset([data_file], told, small.inputs), emit=stop)
    with pytest.raises(CancelledError):
        LinearQuantizer().apply(small, LinearQuantization(), job)


def test_layers_can_differ(small: Network, noise: Dataset, given: tuple[Tensor, ...], context, tmp_path: Path) -> None:
    layers = {"conv1": LayerGrid(weights=WeightGrid(bits=6)), "fc1": LayerGrid(activations=False)}
    spec = LinearQuantization(weights=WeightGrid(bits=4), layers=layers, keep_float=("fc2",))
    quantized, report = LinearQuantizer().apply(small, spec, replace(context(), dataset=noise))
    assert {name: each.name for name, each in quantized.encodings.items() if name.endswith("weight")} == {
        "conv1.weight": "int6",
        "conv2.weight": "int4",
        "fc1.weight": "int4",
    }
    found = operators(quantized, tmp_path, given)
    assert (found["QLinearConv"], found["QGemm"]) == (2, 0)
    assert report.plan["kept_float"] == ["fc2"]


@pytest.mark.parametrize("activations", [None, {"bits": 8}, {"mode": "dynamic"}])
def test_masks_stay(
    activations: dict[str, object] | None, small: Network, noise: Dataset, given: tuple[Tensor, ...], context, tmp_path
) -> None:
    masks = {}
    for name in ("conv2.weight", "fc1.weight"):
        weight = small.graph.get_parameter(name)
        masks[name] = weight.detach().abs() > weight.detach().abs().median()
    pruned = put_encodings(
        small, {name: Masked(mask, Dense(small.graph.get_parameter(name))) for name, mask in masks.items()}
    )
    spec = LinearQuantization.model_validate({"weights": {"bits": 4}, "activations": activations})
    quantized, report = LinearQuantizer().apply(pruned, spec, replace(context(), dataset=noise))
    check_step(pruned, quantized, report, given)
    for name, mask in masks.items():
        assert quantized.encodings[name].kinds == ("masked", "affine_integer")
        assert not quantized.graph.get_parameter(name)[~mask].any()
    export_onnx(quantized, tmp_path / "model.onnx", probes=given)
    assert itemise_bytes(tmp_path / "model.onnx").weights < 0.7 * WEIGHTS / 2
    with pytest.raises(ModelpressError, match="mask"):
        LinearQuantizer().apply(
            pruned,
            spec.model_copy(update={"weights": WeightGrid(symmetric=False, per="channel")}),
            replace(context(), dataset=noise),
        )


def test_a_plan_is_followed_without_looking_at_the_data(small: Network, noise: Dataset, context) -> None:
    spec = LinearQuantization(weights=WeightGrid(bits=4))
    first, report = LinearQuantizer().apply(small, spec, replace(context(), dataset=noise))
    plan = {**report.plan, "ranges": {source: [-1.0, 1.0] for source in report.plan["ranges"]}}
    plan["layers"] = ["conv1", "fc1"]
    again, followed = LinearQuantizer().apply(small, spec, replace(context(), dataset=noise, recorded=plan))
    assert followed.layers == ("conv1", "fc1")
    grids = [each for each in again.graph.modules() if isinstance(each, ActivationGrid)]
    assert {round(float(each.scale), 6) for each in grids} == {round(2 / 255, 6)}
    same, _ = LinearQuantizer().apply(small, spec, replace(context(), dataset=noise, recorded=report.plan))
    for name, tensor in first.graph.state_dict().items():
        assert torch.equal(tensor, same.graph.state_dict()[name]), name
    for broken in ({**report.plan, "ranges": {}}, {**report.plan, "layers": ["nowhere"]}, {"layers": []}):
        with pytest.raises(ModelpressError) as caught:
            LinearQuantizer().apply(small, spec, replace(context(), dataset=noise, recorded=broken))
        assert (caught.value.code, caught.value.pointer) == ("invalid_request", "/plan")


def test_a_second_step_leaves_the_integers_of_the_first(
    small: Network, noise: Dataset, given: tuple[Tensor, ...], context, tmp_path: Path
) -> None:
    job = replace(context(), dataset=noise)
    first, _ = LinearQuantizer().apply(small, LinearQuantization(keep_float=("fc1",)), job)
    second, report = LinearQuantizer().apply(first, LinearQuantization(weights=WeightGrid(bits=4)), job)
    check_step(first, second, report, given)
    assert report.layers == ("fc1",)
    assert difference(second, small, given) < 0.15
    export_onnx(second, tmp_path / "model.onnx", probes=given)


class Decoder(nn.Module):
    """A transposed convolution between two that have integer kernels, and a three-dimensional one."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 6, 2, 2)
        self.last, self.deep = nn.Conv2d(6, 4, 3, 1, 1), nn.Conv3d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.last(torch.relu(self.up(torch.relu(self.down(x))))))
        return self.deep(x.unsqueeze(1)).flatten(1)


def test_layers_without_kernels_get_integer_weights_and_run_on_floats(
    noise: Dataset, given: tuple[Tensor, ...], context, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = read(save(Decoder(), torch.randn(2, 3, 8, 8), tmp_path / "decoder.pt2"))
    spec = LinearQuantization(weights=WeightGrid(bits=6))
    quantized, report = LinearQuantizer().apply(network, spec, replace(context(), dataset=noise))
    check_step(network, quantized, report, given)
    assert set(report.layers) == {"down", "up", "last", "deep"}
    assert quantized.encodings["up.weight"].scale.shape == (6,)
    found = operators(quantized, tmp_path, given)
    assert (found["QLinearConv"], found["ConvTranspose"], found["Conv"]) == (2, 1, 1)
    # No weight is turned into floats in every run.
    weights = [tensor for tensor in onnx.load(tmp_path / "optimised.onnx").graph.initializer if len(tensor.dims) > 2]
    kinds = Counter(onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in weights)
    assert kinds == {"INT8": 2, "FLOAT": 2}
    assert difference(quantized, network, given) < 0.1
