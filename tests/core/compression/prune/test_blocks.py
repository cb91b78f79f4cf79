from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.prune.blocks import LayerPruner
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.network.inspect import read
from core.network.network import Network
from core.network.surgery import find_blocks
from core.specs.prune import LayerPruning
from tests.core.compression.conftest import save

WEIGHT_OF = (1.0, 0.01, 0.8, 0.1)


class Steps(nn.Module):
    """Four residual blocks that add more or less to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.steps = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in WEIGHT_OF)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps:
            x = x + step(x)
        return self.head(x)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    torch.manual_seed(0)
    module = Steps()
    for step, weight in zip(module.steps, WEIGHT_OF, strict=True):
        step[2].weight.data *= 3 * weight
    return read(save(module, torch.randn(2, 6), tmp_path_factory.mktemp("steps") / "steps.pt2"))


@pytest.fixture
def numbers(network: Network, tmp_path: Path) -> Dataset:
    x = np.random.default_rng(0).standard_normal((128, 6)).astype(np.float32)
    y = network.graph(torch.from_numpy(x)).argmax(1).numpy()
    np.savez(tmp_path / "numbers.npz", x=x, y=y)
    splits = {"train": SplitArrays(x="x", y="y"), "evaluation": SplitArrays(x="x", y="y")}
    return open_dataset([tmp_path / "numbers.npz"], DatasetSpec(task="classification", splits=splits), network.inputs)


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({"keep": 0.75}, {1}),
        ({"keep": 0.5}, {1, 3}),
        ({"keep": 0.01}, {1, 2, 3}),
        ({"keep": 0.99}, {1}),
        ({"keep": 0.75, "protect": ["steps.1"]}, {3}),
    ],
)
def test_blocks_that_add_little_go(
    network: Network, numbers: Dataset, context: Callable[..., Context], settings: dict[str, object], gone: set[int]
) -> None:
    names = [block.name for block in find_blocks(network)]
    spec = LayerPruning.model_validate(settings | {"protect": [names[1]] if "protect" in settings else []})
    pruned, report = LayerPruner().apply(network, spec, replace(context(), dataset=numbers))
    check_step(network, pruned, report, (torch.randn(3, 6),))
    assert report.plan["left_out"] == [names[place] for place in sorted(gone)]
    assert len(find_blocks(pruned)) == 4 - len(gone)
    assert len(report.sensitivities) == (3 if "protect" in settings else 4)


def test_spread_over_the_depth_no_data_is_needed(network: Network, context: Callable[..., Context]) -> None:
    spec = LayerPruning(keep=0.5, criterion="even")
    pruned, _ = LayerPruner().apply(network, spec, replace(context(), dataset=None))
    assert len(find_blocks(pruned)) == 2
    assert spec.calibration_samples() == 0


def test_what_cannot_go_is_a_sentence(network: Network, residual: Network, context: Callable[..., Context]) -> None:
    names = tuple(block.name for block in find_blocks(network))
    with pytest.raises(ModelpressError, match="protected"):
        LayerPruner().apply(network, LayerPruning(protect=names), context())
    with pytest.raises(ModelpressError, match="no block: nonsense"):
        LayerPruner().apply(network, LayerPruning(protect=("nonsense",)), context())
    # Both blocks have a convolution beside them, so that nothing is added to what goes in.
    with pytest.raises(ModelpressError, match="no residual blocks"):
        LayerPruner().apply(residual, LayerPruning(), context())
