"""Small networks as users upload them, and data that they answer rightly more often than not."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.compression.context import Context
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.messages import Message
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.specs.recipe import Constraints, Target

SHAPE = (3, 12, 12)


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.norm2 = nn.BatchNorm2d(after)
        self.short = nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.short(x))


class Residual(nn.Module):
    """Convolutions, batch norms, a pool, sums, and two products."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.one = Block(8, 8, 1)
        self.two = Block(8, 16, 2)
        self.fc1 = nn.Linear(16 * 9, 24)
        self.fc2 = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(torch.relu(self.stem(x))))
        x = torch.max_pool2d(x, 2).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


class Attention(nn.Module):
    """Products of rank 3, a layer norm, attention, an embedding whose weight the head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(11, 16)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.mlp1, self.mlp2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.emb(ids)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + self.mlp2(nn.functional.gelu(self.mlp1(x)))
        return self.head(x)


def save(module: nn.Module, example: Tensor, path: Path) -> Path:
    program = torch.export.export(
        module.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def residual_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = Residual()
    network.train()
    for _ in range(3):
        network(torch.randn(32, *SHAPE))
    return save(network, torch.randn(2, *SHAPE), tmp_path_factory.mktemp("models") / "residual.pt2")


@pytest.fixture
def residual(residual_file: Path) -> Network:
    return fold_batch_norm(read(residual_file))


@pytest.fixture(scope="session")
def attention_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    return save(Attention(), torch.zeros(2, 9, dtype=torch.int64), tmp_path_factory.mktemp("models") / "attention.pt2")


@pytest.fixture(scope="session")
def images_file(residual_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, labelled by the network itself with every eighth label wrong."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        y = read(residual_file).graph(torch.from_numpy(x)).argmax(1).numpy()
    y[::8] = (y[::8] + 1) % 4
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=x[:300], y=y[:300], tx=x[300:], ty=y[300:])
    return path


IMAGES = DatasetSpec(
    task="classification", splits={"train": SplitArrays(x="x", y="y"), "evaluation": SplitArrays(x="tx", y="ty")}
)


@pytest.fixture
def images(images_file: Path, residual: Network) -> Dataset:
    return open_dataset([images_file], IMAGES, residual.inputs)


@pytest.fixture
def told() -> list[Message]:
    return []


@pytest.fixture
def context(images: Dataset, told: list[Message]) -> Callable[[Constraints], Context]:
    def make(constraints: Constraints = Constraints()) -> Context:  # noqa: B008  frozen
        return Context(
            step="quantize.linear",
            index=0,
            dataset=images,
            target=Target(),
            constraints=constraints,
            seed=0,
            emit=told.append,
        )

    return make
