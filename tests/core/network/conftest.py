"""Small networks of each structure, exported as a user would, and ONNX models written as text."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.parser
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Save = Callable[..., Path]
HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def save_pt2(tmp_path: Path) -> Save:
    def save(module: nn.Module, *example: Tensor, dynamic: bool = True, decomposed: bool = False) -> Path:
        shapes = tuple({0: torch.export.Dim("n", min=1, max=64)} for _ in example) if dynamic else None
        path = tmp_path / "network.pt2"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module.eval(), example, dynamic_shapes=shapes)
            torch.export.save(program.run_decompositions() if decomposed else program, path)
        return path

    return save


@pytest.fixture
def save_onnx(tmp_path: Path) -> Save:
    def save(module: nn.Module, *example: Tensor, dynamic: bool = True) -> Path:
        shapes = tuple({0: torch.export.Dim("n", min=1, max=64)} for _ in example) if dynamic else None
        path = tmp_path / "network.onnx"
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                example,
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                optimize=True,
            )
        logging.disable(logging.NOTSET)
        return path

    return save


@pytest.fixture
def write_onnx(tmp_path: Path) -> Save:
    def write(text: str, *, opset: int = 20, **weights: Tensor) -> Path:
        model = onnx.parser.parse_model(HEADER.replace("20", str(opset)) + text)
        for node in model.graph.node:
            node.input[:] = [name.replace("__", ".") for name in node.input]
        for name, weight in weights.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), name.replace("__", ".")))
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


class Residual(nn.Module):
    """Convolutions with batch norm, a residual sum and calls that write into their input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.block = nn.Conv2d(8, 8, 3, padding="same")
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 4)
        for norm in (self.stem[1],):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x), inplace=True)
        z = self.block(y)
        z += y
        F.relu_(z)
        return self.fc(self.drop(z.mean((2, 3))))


class Attention(nn.Module):
    """A transformer block on patches, with a class token that is expanded to the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.patch = nn.Conv2d(1, 16, 4, 4)
        self.pos = nn.Parameter(torch.randn(1, 5, 16))
        self.norm = nn.LayerNorm(16)
        self.att = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        tokens = self.patch(x).view(batch, 16, 4).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(batch, -1, -1), tokens], 1) + self.pos
        seen = self.norm(tokens)
        tokens = tokens + self.att(seen, seen, seen, need_weights=False)[0]
        return self.head(tokens[:, 0])


class Tied(nn.Module):
    """A language model whose head shares the embedding's weight, with one layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(50, 12)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 50, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(torch.tanh(self.mix(self.emb(ids))))))


class Series(nn.Module):
    """One-dimensional layers, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 8, 5, stride=2, groups=2)
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 6)
        self.norm2 = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.gelu(self.norm(self.conv(x))).amax(-1)
        return self.norm2(self.fc(pooled)), pooled


@pytest.fixture
def residual() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Residual(), torch.randn(2, 3, 8, 8)


@pytest.fixture
def attention() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Attention(), torch.randn(2, 1, 8, 8)


@pytest.fixture
def tied() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Tied(), torch.randint(0, 50, (2, 7))


@pytest.fixture
def series() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Series(), torch.randn(2, 2, 20)
