"""Fisher information and curvature, against closed forms and against the loss that really rises."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from core.compression.curvature import diagonal_fisher, mean_curvature
from core.description import Task, TensorDescription
from core.errors import ModelpressError
from core.network.encodings import ActivationGrid
from core.network.network import Network

CLASSES, WIDTH = 4, 6


def network_of(module: nn.Module, width: int = WIDTH) -> Network:
    shape = ("batch", width)
    described = TensorDescription(name="x", dtype="float32", shape=shape)
    return Network(fx.symbolic_trace(module.eval()), (described,), (described.model_copy(update={"name": "y"}),))


def linear() -> tuple[Network, list[tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    network = network_of(nn.Sequential(nn.Linear(WIDTH, CLASSES)))
    return network, [(torch.randn(2, WIDTH),) for _ in range(32)]


def fisher_of_linear(network: Network, batches: list[tuple[Tensor, ...]], task: Task) -> Tensor:
    """Of W in y = Wx: E[x² · the curvature of the loss in y]."""
    x = torch.cat([inputs[0] for inputs in batches])
    with torch.no_grad():
        y = network.graph(x)
    if task == "classification":
        curvature = y.softmax(-1) * (1 - y.softmax(-1))
    elif task == "multi_label":
        curvature = y.sigmoid() * (1 - y.sigmoid()) / CLASSES
    else:
        curvature = torch.full_like(y, 2 / CLASSES)
    return torch.einsum("nc,ni->ci", curvature, x.square()) / len(x)


TASKS: tuple[Task, ...] = ("classification", "multi_label", "regression")


@pytest.mark.parametrize("task", TASKS)
def test_the_fisher_of_a_linear_layer_is_that_of_its_closed_form(task: Task) -> None:
    network, batches = linear()
    found = diagonal_fisher(network, batches * 60, ("0.weight",), task=task, seed=1)["0.weight"]
    wanted = fisher_of_linear(network, batches, task)
    assert float((found - wanted).norm() / wanted.norm()) < 0.08


@pytest.mark.parametrize("task", TASKS)
def test_the_curvature_of_a_linear_layer_is_the_mean_of_its_fisher(task: Task) -> None:
    network, batches = linear()
    found = mean_curvature(network, batches * 30, ("0.weight",), task=task, seed=1)["0.weight"]
    assert found == pytest.approx(float(fisher_of_linear(network, batches, task).mean()), rel=0.05)


def test_what_is_told_of_tokens_is_a_mean_over_them() -> None:
    network, batches = linear()
    rows = torch.cat([inputs[0] for inputs in batches])
    tokens = [(row,) for row in rows.reshape(16, 4, WIDTH).split(2)]
    one = diagonal_fisher(network, batches * 60, ("0.weight",), task="classification", seed=1)["0.weight"]
    other = diagonal_fisher(network, tokens * 60, ("0.weight",), task="language_modelling", seed=2)["0.weight"]
    assert float((one - other).norm() / one.norm()) < 0.15


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.unused = nn.Linear(WIDTH, 16), nn.Linear(16, CLASSES), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


@pytest.mark.parametrize("name", ["one.weight", "two.weight"])
def test_half_of_fisher_times_squared_change_is_what_the_divergence_rises_by(name: str) -> None:
    torch.manual_seed(3)
    network = network_of(Deep())
    batches = [(torch.randn(4, WIDTH),) for _ in range(400)]
    fisher = diagonal_fisher(network, batches, (name,), task="classification", seed=0)[name]
    trace = mean_curvature(network, batches, (name,), task="classification", seed=0)[name]
    weight, x = network.graph.get_parameter(name), torch.cat([inputs[0] for inputs in batches])
    rises, told, by_trace = 0.0, 0.0, 0.0
    with torch.no_grad():
        wanted, original = network.graph(x).log_softmax(-1), weight.data
        for _ in range(20):
            change = torch.randn_like(weight) * 0.02
            weight.data = original + change
            found = network.graph(x).log_softmax(-1)
            rises += float(F.kl_div(found, wanted, reduction="batchmean", log_target=True))
            told += float((fisher * change.square()).sum()) / 2
            by_trace += trace * float(change.square().sum()) / 2
        weight.data = original
    assert told == pytest.approx(rises, rel=0.25)
    assert by_trace == pytest.approx(rises, rel=0.25)


def test_the_network_stays_as_it_is_and_weights_without_say_have_none() -> None:
    network = network_of(Deep())
    before = {name: value.clone() for name, value in network.graph.state_dict().items()}
    names = ("one.weight", "two.weight")
    batches = [(torch.randn(4, WIDTH),)]
    for measure in (diagonal_fisher, mean_curvature):
        first = measure(network, batches, names, task="classification", seed=5)
        assert all(
            bool(torch.as_tensor(first[name] == again).all())
            for name, again in measure(network, batches, names, task="classification", seed=5).items()
        )
    assert all(torch.equal(value, before[name]) for name, value in network.graph.state_dict().items())
    zeros = network_of(nn.Sequential(nn.Linear(WIDTH, CLASSES)))
    with torch.no_grad():
        found = diagonal_fisher(zeros, [(torch.zeros(4, WIDTH),)], ("0.weight",), task="embedding", seed=0)
    assert not found["0.weight"].any()


def test_a_gradient_passes_the_roundings_of_activations() -> None:
    graph = network_of(Deep()).graph
    rounded = replace(network_of(nn.Sequential(ActivationGrid.of_range(-1.0, 1.0), graph)))
    found = diagonal_fisher(rounded, [(torch.randn(4, WIDTH),)], ("1.one.weight",), task="regression", seed=0)
    assert found["1.one.weight"].any()


def test_without_a_sample_nothing_is_said() -> None:
    network, _ = linear()
    for measure in (diagonal_fisher, mean_curvature):
        with pytest.raises(ModelpressError, match="no samples"):
            measure(network, [], ("0.weight",), task="classification", seed=0)


def test_answers_that_are_no_numbers_are_told() -> None:
    network, _ = linear()
    for measure in (diagonal_fisher, mean_curvature):
        with pytest.raises(ModelpressError) as caught:
            measure(network, [(torch.full((2, WIDTH), torch.inf),)], ("0.weight",), task="classification", seed=0)
        assert caught.value.code == "non_finite"
