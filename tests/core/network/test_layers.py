"""Layers beyond convolutions and linear ones: each becomes its `nn` layer and computes what the module does."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.export import export_onnx, export_pt2, export_safetensors
from core.network.inspect import inspect, read
from tests.core.network.test_read_pt2 import outputs


class Recurrent(nn.Module):
    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.rnn = layer
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, state = self.rnn(x)
        last = state[1] if isinstance(state, tuple) else state
        return self.fc(values[:, -1]), last.transpose(0, 1)


class Weighted(nn.Module):
    """Weights that are computed from others."""

    def __init__(self) -> None:
        super().__init__()
        self.new = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 4, 3))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.new(x).mean(-1), self.fc.weight * self.scale, self.fc.bias)


class Direct(nn.Module):
    """Parameters that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4))
        self.bias = nn.Parameter(torch.randn(4))
        self.gain = nn.Parameter(torch.randn(4))
        self.query = nn.Parameter(torch.randn(1, 3, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(self.query @ x.transpose(1, 2), -1) @ x
        return (y @ self.weight + self.bias) * self.gain


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.layer(x, memory)


NETWORKS = {
    "conv3d": (nn.Conv3d(2, 4, 3, padding=1), (2, 4, 4, 4), {"conv3d": 1}),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (4, 5), {"conv_transpose1d": 1}),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5, 5), None),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2, bias=False), (2, 3, 3, 3), None),
    "group norm": (nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(4, 8)), (2, 6, 6), {"group_norm": 1}),
    "instance norm": (nn.InstanceNorm2d(3, affine=True), (3, 5, 5), {"instance_norm": 1}),
    "tracking instance norm": (nn.InstanceNorm1d(3, track_running_stats=True), (3, 9), {"instance_norm": 1}),
    "rms norm": (nn.RMSNorm(6), (6,), {"rms_norm": 1}),
    "lstm": (Recurrent(nn.LSTM(4, 6, batch_first=True), 6), (5, 4), {"lstm": 1}),
    "deep lstm": (Recurrent(nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True), 12), (5, 4), {"lstm": 1}),
    "gru": (Recurrent(nn.GRU(4, 6, batch_first=True, bias=False), 6), (5, 4), {"gru": 1}),
    "rnn": (Recurrent(nn.RNN(4, 6, batch_first=True, nonlinearity="relu"), 6), (5, 4), {"rnn": 1}),
    "weight norm": (Weighted(), (2, 9), {"conv1d": 1, "linear": 1}),
    "direct parameters": (Direct(), (5, 8), {"linear": 1}),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8), {"linear": 4, "layer_norm": 2}),
}


@pytest.mark.parametrize("dynamic", [True, False], ids=["free batch", "fixed batch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_is_lifted_and_exact(name: str, dynamic: bool, save_pt2) -> None:
    module, shape, kinds = NETWORKS[name]
    torch.manual_seed(0)
    path = save_pt2(module, torch.randn(2, *shape), dynamic=dynamic)
    network = read(path)
    assert network.batch == ("dynamic" if dynamic else "freed")
    larger = torch.randn(5, *shape)
    for ours, theirs in zip(outputs(network.graph, larger), outputs(module.eval(), larger), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    operators = inspect(path).operators
    for kind, count in (kinds or {}).items():
        assert operators[kind] == count
    if name not in ("weight norm", "direct parameters", "encoder") and "." in next(iter(module.state_dict())):
        ours = {name for name, _ in network.graph.named_parameters()}
        assert ours == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("name", [name for name in NETWORKS if "lstm" not in name and name not in ("gru", "rnn")])
def test_a_decomposed_export_gives_the_same(name: str, save_pt2) -> None:
    module, shape, _ = NETWORKS[name]
    example = torch.randn(3, *shape)
    network = read(save_pt2(module, example, decomposed=True))
    for ours, theirs in zip(outputs(network.graph, example), outputs(module.eval(), example), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_cross_attention_is_made_of_linear_layers(save_pt2) -> None:
    module = Decoder()
    description = inspect(save_pt2(module, torch.randn(2, 5, 8), torch.randn(2, 5, 8)))
    assert description.operators["linear"] == 7
    assert description.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_computed_weights_keep_the_name_of_their_layer(save_pt2) -> None:
    network = read(save_pt2(Weighted(), torch.randn(2, 2, 9)))
    names = {name for name, _ in network.graph.named_parameters()}
    assert {"new.weight", "new.bias"} <= names
    assert not any("parametrizations" in name for name in names)


@pytest.mark.parametrize("name", ["deep lstm", "gru", "transposed 2d", "tracking instance norm"])
def test_it_is_written_and_read_again(name: str, tmp_path, save_pt2) -> None:
    module, shape, _ = NETWORKS[name]
    network = read(save_pt2(module, torch.randn(2, *shape)))
    for export, file in ((export_onnx, "a.onnx"), (export_pt2, "a.pt2"), (export_safetensors, "a.safetensors")):
        export(network, tmp_path / file)
    assert read(tmp_path / "a.onnx").batch == "dynamic"


def test_a_projected_lstm_is_refused_by_name(save_pt2) -> None:
    with pytest.raises(ModelpressError, match="proj_size"):
        read(save_pt2(Recurrent(nn.LSTM(4, 6, batch_first=True, proj_size=3), 3), torch.randn(2, 5, 4)))


def test_a_recurrent_layer_in_training_mode_is_refused(tmp_path) -> None:
    module = Recurrent(nn.LSTM(4, 6, 2, batch_first=True, dropout=0.5), 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module.train(), (torch.randn(2, 5, 4),)), tmp_path / "a.pt2")
    with pytest.raises(ModelpressError, match="training mode"):
        read(tmp_path / "a.pt2")
