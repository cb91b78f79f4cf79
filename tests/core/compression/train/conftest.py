"""Small networks and data to train on, and a checkpoint that can be interrupted."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from core.compression.context import Context, NoCheckpoint, StepCheckpoint
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.messages import Message
from core.network.inspect import read
from core.network.network import Network
from core.specs.recipe import Constraints, Target

SIDE = 8


class KilledError(Exception):
    """Stands for a kill."""


class Memory(StepCheckpoint):
    """Keeps every `every` updates, and is interrupted instead of keeping for the `last` time."""

    def __init__(self, every: int = 1, last: int | None = None) -> None:
        self.kept: tuple[dict[str, Tensor], dict[str, JsonValue]] | None = None
        self._every, self._last = every, last
        self._asked = 0

    def restore(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]] | None:
        return self.kept

    def due(self) -> bool:
        self._asked += 1
        if self._asked == self._last:
            raise KilledError
        return self._asked % self._every == 0

    def keep(self, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> None:
        self.kept = ({name: tensor.clone() for name, tensor in tensors.items()}, dict(facts))

    def again(self, last: int | None = None) -> "Memory":
        """The same place, as the next run finds it."""
        fresh = Memory(self._every, last)
        fresh.kept = self.kept
        return fresh


class Small(nn.Module):
    """A convolution, a batch norm that cannot be folded because the sum before it is read twice, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = torch.relu(self.norm(y) + y)
        return self.fc(torch.max_pool2d(y, 2).flatten(1))


class Likely(Small):
    """The same, as many files are: its answers are probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def save(kind: type[nn.Module], path: Path) -> Path:
    """A network whose weights are the same for every kind."""
    torch.manual_seed(3)
    example = (torch.randn(2, 1, SIDE, SIDE),)
    program = torch.export.export(kind().eval(), example, dynamic_shapes=({0: torch.export.Dim("n", min=1, max=256)},))
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Small, tmp_path_factory.mktemp("models") / "small.pt2")


@pytest.fixture
def small(small_file: Path) -> Network:
    return read(small_file)


@pytest.fixture(scope="session")
def shapes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of a bright column, a bright row, or neither."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    images = rng.standard_normal((500, 1, SIDE, SIDE)).astype(np.float32) * 0.5
    for image, label, place in zip(images, labels, rng.integers(1, SIDE - 1, 500), strict=True):
        if label == 0:
            image[0, :, place] += 1.5
        elif label == 1:
            image[0, place] += 1.5
    path = tmp_path_factory.mktemp("data") / "shapes.npz"
    np.savez(
        path, x=images[:300], y=labels[:300], vx=images[300:400], vy=labels[300:400], tx=images[400:], ty=labels[400:]
    )
    return path


SHAPES = DatasetSpec(
    task="classification",
    splits={
        "train": SplitArrays(x="x", y="y"),
        "validation": SplitArrays(x="vx", y="vy"),
        "evaluation": SplitArrays(x="tx", y="ty"),
    },
)


@pytest.fixture
def likely(tmp_path: Path) -> Network:
    return read(save(Likely, tmp_path / "likely.pt2"))


@pytest.fixture
def shapes(shapes_file: Path, small: Network) -> Dataset:
    return open_dataset([shapes_file], SHAPES, small.inputs)


@pytest.fixture
def told() -> list[Message]:
    return []


@pytest.fixture
def context(told: list[Message]) -> Callable[..., Context]:
    """`context(dataset, checkpoint=…, recorded=…)`."""

    def make(
        dataset: Dataset,
        checkpoint: StepCheckpoint | None = None,
        recorded: dict[str, JsonValue] | None = None,
        seed: int = 0,
    ) -> Context:
        return Context(
            step="finetune",
            index=0,
            dataset=dataset,
            target=Target(),
            constraints=Constraints(),
            seed=seed,
            emit=told.append,
            checkpoint=checkpoint or NoCheckpoint(),
            recorded=recorded,
        )

    return make
