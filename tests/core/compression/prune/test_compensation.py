"""What makes up for cut channels: layers are fitted, norms and moments are taken anew, and nothing gets worse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.compression.context import Context
from core.compression.prune.channel_map import kept_outputs
from core.compression.prune.channels import ChannelPruner
from core.compression.prune.compensation import CORRECTIONS, Compensator, Cut
from core.compression.prune.least_squares import refit
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.messages import LogMessage, Message
from core.network.inspect import read
from core.network.network import Network
from core.network.surgery import Channels
from core.specs.structured_pruning import ChannelPruning, Compensation
from tests.core.compression.conftest import SHAPE, Attention, save
from tests.core.network.surgery.structures import network_of

MakeContext = Callable[..., Context]


def inputs_of(count: int, *shape: int) -> tuple[tuple[Tensor], ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple((torch.randn(16, *shape, generator=generator),) for _ in range(count))


def cut_out(network: Network, group: str, gone: set[int]) -> Cut:
    channels = Channels(network)
    found = channels.group(group)
    keep = {found: torch.tensor([index for index in range(found.size) if index not in gone])}
    return Cut(channels, keep, kept_outputs(channels, keep), channels.resize(keep))


def run(network: Network, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return network.graph(*inputs)


class Grouped(nn.Module):
    """What is cut is read by a convolution in groups, at a stride, which has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 8, 3, 2, 1, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x))).mean((2, 3))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x))).mean((2, 3))


class Flattened(nn.Module):
    """A linear layer reads every position of a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, 2), nn.Linear(6 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).flatten(1))


@pytest.mark.parametrize(
    ("module", "group", "twin", "side"),
    [(Grouped, "a.weight[0].1", 0, 6), (Transposed, "a.weight[0]", 0, 6), (Flattened, "a.weight[0]", 0, 6)],
)
def test_a_twin_of_a_channel_that_is_cut_takes_its_place(
    module: type[nn.Module], group: str, twin: int, side: int
) -> None:
    torch.manual_seed(0)
    network = network_of((module(), (torch.randn(3, 3, side, side),)))
    weights = network.graph.get_submodule("a")
    # Of a convolution in two groups, an index is a channel of each.
    half = len(weights.weight) // (2 if module is Grouped else 1)
    for start in range(0, len(weights.weight), half):
        for name in ("weight", "bias"):
            value = weights.get_parameter(name).data
            value[start + half - 1] = 2 * value[start + twin]
    cut = cut_out(network, group, {half - 1})
    samples = inputs_of(12, 3, side, side)
    done: list[float] = []
    fitted = refit(network, cut.network, cut.outputs, lambda: samples, done.append)
    wanted = run(network, samples[0])
    lost, left = (float((run(each, samples[0]) - wanted).abs().max()) for each in (cut.network, fitted))
    assert left < 0.02 * lost
    assert done == sorted(done)
    # What was cut is as it was.
    assert torch.equal(cut.network.graph.get_submodule("b").weight, cut.channels.resize(cut.keep).graph.b.weight)


def test_projections_are_fitted_to_what_heads_and_streams_lost() -> None:
    torch.manual_seed(1)
    ids = tuple((torch.randint(0, 11, (16, 9), generator=torch.Generator().manual_seed(seed)),) for seed in range(12))
    network = network_of((Attention(), ids[0]))
    for name in ("mlp1.weight[0]", "head.weight[1]"):
        cut = cut_out(network, name, {1, 4, 7, 9})
        fitted = refit(network, cut.network, cut.outputs, lambda: ids, lambda _: None)
        wanted = run(network, ids[0])
        lost, left = (float((run(each, ids[0]) - wanted).square().mean()) for each in (cut.network, fitted))
        assert left < 0.8 * lost
        # The head shares its weight with the embedding.
        assert torch.equal(fitted.graph.get_parameter("head.weight"), cut.network.graph.get_parameter("head.weight"))


@pytest.mark.parametrize("wanted", ["auto", "least_squares", "statistics"])
def test_answers_come_nearer_or_stay(residual: Network, context: MakeContext, wanted: Compensation) -> None:
    cut = cut_out(residual, "one.conv1.weight[0]", {0, 1, 5})
    compensator = Compensator(residual, 256, context())
    plain = compensator.improve(cut, (), lambda _: None)
    found = compensator.improve(cut, CORRECTIONS[wanted], lambda _: None)
    assert found.distance < plain.distance
    assert found.made
    assert compensator.improve(cut, CORRECTIONS[wanted], lambda _: None).distance == found.distance


def test_what_does_not_help_is_left_out(residual: Network, context: MakeContext) -> None:
    # Nothing reads less than it did: the moments are those of other samples.
    cut = cut_out(residual, "fc1.weight[0]", set())
    found = Compensator(residual, 64, context()).improve(cut, CORRECTIONS["auto"], lambda _: None)
    assert found.made == ()
    assert torch.equal(run(found.network, *inputs_of(1, *SHAPE)), run(residual, *inputs_of(1, *SHAPE)))
    assert all("left out" in line for line in found.told)


def test_a_step_says_what_was_made_and_is_repeated_by_its_plan(
    residual: Network, context: MakeContext, told: list[Message]
) -> None:
    given = replace(context(), alone=False)
    spec = ChannelPruning.model_validate({"keep": 0.5, "criterion": "l2", "ranking": "layer", "samples": 128})
    pruned, report = ChannelPruner().apply(residual, spec, given)
    assert report.plan["compensated"]
    assert any("Fitting layers" in each.text for each in told if isinstance(each, LogMessage))
    again, repeated = ChannelPruner().apply(residual, spec, replace(given, recorded=report.plan))
    assert repeated.plan == report.plan
    assert torch.equal(run(pruned, *inputs_of(1, *SHAPE)), run(again, *inputs_of(1, *SHAPE)))


def test_without_samples_nothing_is_made_by_itself(residual: Network, context: MakeContext) -> None:
    given = replace(context(), dataset=None, alone=False)
    spec = ChannelPruning.model_validate({"keep": 0.5, "criterion": "l2"})
    _, report = ChannelPruner().apply(residual, spec, given)
    assert report.plan["compensated"] == []
    with pytest.raises(ModelpressError) as caught:
        ChannelPruner().apply(residual, spec.model_copy(update={"compensate": "least_squares"}), given)
    assert caught.value.code == "missing_data"


def test_layers_are_not_fitted_to_samples_that_are_drawn(residual: Network, context: MakeContext) -> None:
    given = context()
    drawn = replace(given, dataset=replace(given.needed_dataset(), synthetic=True), alone=False)
    _, report = ChannelPruner().apply(residual, ChannelPruning.model_validate({"criterion": "l2"}), drawn)
    assert report.plan["compensated"] == []


class Normed(nn.Module):
    """Norms before their layers, which stay norms when the network is read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv, self.last, self.head = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(torch.relu(self.norm(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.last(torch.relu(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def normed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    network = Normed().train()
    for (batch,) in inputs_of(3, *SHAPE):
        network(batch)
    network.norm.weight.data = torch.tensor([1.0, 0.01, 2.0, 0.5, 0.02, 1.0, 3.0, 0.3])
    return save(network, torch.randn(2, *SHAPE), tmp_path_factory.mktemp("models") / "normed.pt2")


def test_channels_go_by_the_scales_of_their_norms(normed_file: Path, context: MakeContext) -> None:
    network, given = read(normed_file), replace(context(), alone=False)
    spec = ChannelPruning.model_validate(
        {"criterion": "batch_norm_scale", "layers": {"stem": 0.5}, "protect": ["conv"], "compensate": "none"}
    )
    _, report = ChannelPruner().apply(network, spec, given)
    assert report.plan["kept"] == {"stem.weight[0]": [0, 2, 5, 6]}


def test_norms_follow_what_comes_in_now(normed_file: Path, context: MakeContext) -> None:
    network, given = read(normed_file), context()
    before = network.graph.get_buffer("last.running_mean").clone()
    cut = cut_out(network, "stem.weight[0]", {0, 2, 6})
    compensator = Compensator(network, 256, given)
    pruned = compensator.improve(cut, ("statistics",), lambda _: None, judged=False).network
    samples = given.needed_dataset().take("calibration", np.arange(256, dtype=np.int64)).inputs["x"]
    seen: list[Tensor] = []
    handle = pruned.graph.get_submodule("last").register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run(pruned, (samples,))
    handle.remove()
    torch.testing.assert_close(
        pruned.graph.get_buffer("last.running_mean"), seen[0].mean((0, 2, 3)), rtol=0.05, atol=0.02
    )
    assert torch.equal(network.graph.get_buffer("last.running_mean"), before)
    assert not any(layer.training for layer in pruned.graph.modules() if isinstance(layer, nn.BatchNorm2d))


def test_without_norms_their_scales_are_refused(residual: Network, context: MakeContext) -> None:
    with pytest.raises(ModelpressError, match="Take the criterion l2"):
        ChannelPruner().apply(residual, ChannelPruning(criterion="batch_norm_scale"), context())


def test_labels_are_what_taylor_needs(residual: Network, context: MakeContext, images_file: Path) -> None:
    spec = ChannelPruning.model_validate({"keep": 0.5, "criterion": "taylor", "compensate": "none", "samples": 64})
    given = replace(context(), alone=False)
    assert spec.needs_labels()
    pruned, _ = ChannelPruner().apply(residual, spec, given)
    assert Channels(pruned).costs().macs <= 0.5 * Channels(residual).costs().macs
    with pytest.raises(ModelpressError) as caught:
        ChannelPruner().apply(residual, spec, replace(given, dataset=unlabelled(images_file, residual)))
    assert caught.value.code == "missing_data"


def unlabelled(file: Path, network: Network) -> Dataset:
    splits = {"calibration": SplitArrays(x="x"), "evaluation": SplitArrays(x="tx")}
    return open_dataset([file], DatasetSpec(task="classification", splits=splits), network.inputs)
