"""`modelpress.export` and the command of that name, on modules as users write them."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import modelpress
from core.errors import ModelpressError
from core.network.inspect import inspect

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x):
        y = self.drop(torch.relu(self.conv(x)))
        return self.fc(y.view(x.size(0), -1))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, ids, mask):
        return self.fc((self.emb(ids) * mask.unsqueeze(-1)).mean(1))


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Sorting(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[0]


class Wrong(nn.Module):
    def forward(self, x):
        return x.view(7, 3)


def flat(x):
    return x.reshape(2, -1)


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(9, 2)

    def forward(self, x):
        return self.fc(flat(x))


trained = Net()
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("net", None)
    import net

    torch.manual_seed(0)
    return net


@pytest.mark.parametrize("name", ["a.pt2", "a.onnx"])
def test_a_module_becomes_a_file_with_a_free_batch(name: str, net, tmp_path: Path) -> None:
    model = net.Net().train()
    captured = modelpress.export(model, torch.randn(1, 1, 8, 8), tmp_path / name)
    assert model.training
    assert captured.batch == "dynamic"
    assert captured.max_abs_difference < 1e-5
    assert captured.bytes == (tmp_path / name).stat().st_size
    description = inspect(tmp_path / name)
    assert description.inputs[0].shape == ("batch", 1, 8, 8)
    assert {layer.name for layer in description.layers} == {"conv", "fc"}


def test_the_onnx_file_runs_at_another_batch(net, tmp_path: Path) -> None:
    model = net.Net().eval()
    modelpress.export(model, [torch.randn(2, 1, 8, 8)], tmp_path / "a.onnx")
    x = torch.randn(5, 1, 8, 8)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-5)


def test_inputs_can_have_names(net, tmp_path: Path) -> None:
    ids = torch.randint(0, 20, (2, 6))
    captured = modelpress.export(net.Words(), {"ids": ids, "mask": torch.ones(2, 6)}, tmp_path / "a.pt2")
    assert [value.name for value in captured.inputs] == ["ids", "mask"]


def test_the_file_holds_no_bytes_of_the_example_and_no_paths(net, tmp_path: Path) -> None:
    large = torch.randn(1000, 1, 8, 8)
    captured = modelpress.export(net.Net(), large[:2], tmp_path / "a.pt2")
    assert captured.bytes < 60_000
    with zipfile.ZipFile(captured.path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(tmp_path).encode() not in content


def test_a_batch_that_the_code_fixes_is_freed(net, tmp_path: Path) -> None:
    assert modelpress.export(net.Fixed(), torch.randn(2, 3, 3), tmp_path / "a.pt2").batch == "freed"


@pytest.mark.parametrize(
    ("name", "shape", "code", "line"),
    [
        ("Branching", (2, 3), "unsupported_graph", "if x.sum() > 0:"),
        ("Sorting", (2, 3, 3), "unsupported_operator", "return torch.linalg.svd(x)[0]"),
        ("Wrong", (2, 3), "invalid_request", "return x.view(7, 3)"),
    ],
)
def test_the_offending_line_is_named(name: str, shape: tuple[int, ...], code: str, line: str, net, tmp_path) -> None:
    with pytest.raises(ModelpressError) as raised:
        modelpress.export(getattr(net, name)(), torch.randn(shape), tmp_path / "a.pt2")
    assert raised.value.code == code
    assert f"`{line}`" in raised.value.detail
    assert "net.py:" in raised.value.detail
    assert not (tmp_path / "a.pt2").exists()


@pytest.mark.parametrize("example", [torch.tensor(1.0), torch.empty(0, 3), "x", [1]])
def test_an_example_without_samples_is_refused(example, net, tmp_path: Path) -> None:
    with pytest.raises(ModelpressError, match="first dimension"):
        modelpress.export(net.Net(), example, tmp_path / "a.pt2")


def test_another_ending_is_refused(net, tmp_path: Path) -> None:
    with pytest.raises(ModelpressError, match="pt2"):
        modelpress.export(net.Net(), torch.randn(1, 1, 8, 8), tmp_path / "a.pth")


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"a": self.fc(x) + y, "b": y}


def test_a_module_may_give_several_outputs(tmp_path: Path) -> None:
    captured = modelpress.export(Shared(), (torch.randn(2, 4), torch.randn(2, 4)), tmp_path / "a.pt2")
    assert len(captured.outputs) == 2


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelpress", "export", *words], cwd=folder, capture_output=True, text=True, check=False
    )


class TestCommand:
    def test_it_writes_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text(NET)
        done = run(tmp_path, "net:trained", "--example", "2x1x8x8", "--to", "out/net.pt2", "--json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert shown["batch"] == "dynamic"
        assert (tmp_path / "out/net.pt2").stat().st_size == shown["bytes"]

    def test_it_says_what_is_wrong(self, tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text(NET)
        done = run(tmp_path, "net:Branching", "--example", "2x3")
        assert done.returncode == 1
        assert "x.sum() > 0" in " ".join(done.stderr.split())
        done = run(tmp_path, "net:nothing", "--example", "2x3")
        assert done.returncode == 2
        assert "cannot be imported" in done.stderr
