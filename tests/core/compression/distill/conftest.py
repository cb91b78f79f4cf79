"""A teacher whose answers say something, and samples that it has labelled."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.dataset import Dataset, open_dataset
from core.network.network import Network
from tests.core.compression.conftest import IMAGES, SHAPE


def distance(student: Network, teacher: Network, dataset: Dataset) -> float:
    """Squared difference of the answers as a share of how much the teacher's vary."""
    (batch,) = dataset.batches("evaluation", 200)
    with torch.no_grad():
        found, wanted = (network.graph(batch.inputs["x"]) for network in (student, teacher))
    # What is added to all logits of a sample says nothing.
    found, wanted = (each - each.mean(1, keepdim=True) for each in (found, wanted))
    return float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def correlation(student: Network, teacher: Network, dataset: Dataset) -> float:
    """Mean correlation of the probabilities of each sample."""
    (batch,) = dataset.batches("evaluation", 200)
    with torch.no_grad():
        found, wanted = (network.graph(batch.inputs["x"]).softmax(1) for network in (student, teacher))
    # All probabilities of a sample are 1 together.
    mean = 1 / found.shape[1]
    return float(torch.cosine_similarity(found - mean, wanted - mean, dim=1).mean())


@pytest.fixture
def teacher(residual: Network) -> Network:
    """The network with answers that differ from sample to sample by about as much as a trained one's."""
    x = torch.randn(200, *SHAPE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        last = residual.graph.get_submodule("fc2")
        last.weight.mul_(3 / residual.graph(x).std(0).mean())
        last.bias.sub_(residual.graph(x).mean(0))
    return residual


@pytest.fixture
def file(teacher: Network, tmp_path: Path) -> Path:
    """Noise that the teacher itself has labelled, every eighth label wrong."""
    x = np.random.default_rng(1).standard_normal((500, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        y = teacher.graph(torch.from_numpy(x)).argmax(1).numpy()
    y[::8] = (y[::8] + 1) % 4
    np.savez(tmp_path / "images.npz", x=x[:300], y=y[:300], tx=x[300:], ty=y[300:])
    return tmp_path / "images.npz"


@pytest.fixture
def data(file: Path, teacher: Network) -> Dataset:
    return open_dataset([file], IMAGES, teacher.inputs)
