"""AdaRound on single layers: up or down for each weight, with a smaller error of the output."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from core.compression.quantize.rounding import adaround
from core.compression.quantize.rounding.adaround import Adaround, AdaroundRows, SoftIntegers
from core.compression.quantize.rounding.rounder import Task
from core.compression.quantize.rounding.snapper import snapper_of
from core.network.encodings import AffineInteger, packed_grid
from core.specs.rounding import Rounding

OUTPUTS, COLUMNS = 8, 24


def make_task(*, relu: bool = False, added: bool = False, mask: Tensor | None = None) -> Task:
    torch.manual_seed(0)
    layer = nn.Linear(COLUMNS, OUTPUTS)
    template = AffineInteger.of(layer.weight.detach(), grid=packed_grid(3), axis=0)
    grid = snapper_of(layer, template, mask)
    assert grid is not None
    kept = None if mask is None else mask.unsqueeze(0)
    matrix, bias = layer.weight.detach().unsqueeze(0), layer.bias.detach().unsqueeze(0)
    return Task(layer, matrix, template, grid, kept, bias, relu, added, 400)


def soften(task: Task) -> SoftIntegers:
    assert isinstance(task.template, AffineInteger)
    return SoftIntegers(task, task.template, task.matrix)


def draw_inputs() -> Tensor:
    torch.manual_seed(2)
    return (torch.randn(400, 5) @ torch.randn(5, COLUMNS) + 0.3 * torch.randn(400, COLUMNS)).unsqueeze(0)


def learn(task: Task, inputs: Tensor, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
    rows = AdaroundRows(task)
    rows.add(inputs, inputs, beside)
    encoding = (
        Adaround(Rounding(method="adaround", steps=300, scales="nearest", sweeps=0, damping=1.0))
        .choose(task, rows, lambda: None)
        .decode()
    )
    return (encoding if task.mask is None else torch.where(task.mask[0], encoding, 0.0)).unsqueeze(0)


@pytest.mark.parametrize("relu", [True, False])
def test_every_weight_goes_up_or_down_and_the_output_is_nearer(relu: bool) -> None:
    task, inputs = make_task(relu=relu), draw_inputs()
    found, nearest = learn(task, inputs), task.template.decode().unsqueeze(0)
    assert isinstance(task.template, AffineInteger)
    assert torch.allclose(task.template.at(found[0]).decode(), found[0], atol=1e-6)
    assert not torch.equal(found, nearest)
    assert torch.equal(learn(task, inputs), found)

    def error(matrix: Tensor) -> Tensor:
        answers = [inputs @ each.mT + task.bias.unsqueeze(1) for each in (matrix, task.matrix)]
        one, other = (each.relu() for each in answers) if relu else answers
        return (one - other).square().mean()

    assert error(found) < 0.7 * error(nearest)


def test_a_relu_that_cuts_most_of_the_answers_is_learnt_from_and_left_out_behind_an_unknown_sum() -> None:
    inputs = torch.randn(1, 400, COLUMNS, generator=torch.Generator().manual_seed(5))

    def task_of(*, relu: bool, added: bool = False) -> Task:
        task = make_task(relu=relu, added=added)
        return replace(task, bias=-(inputs @ task.matrix.mT).std(1))

    plain = learn(task_of(relu=False), inputs)
    assert torch.equal(learn(task_of(relu=True, added=True), inputs), plain)
    task = task_of(relu=True)
    found = learn(task, inputs)

    def error(matrix: Tensor) -> Tensor:
        one, other = ((inputs @ each.mT + task.bias.unsqueeze(1)).relu() for each in (matrix, task.matrix))
        return (one - other).square().mean()

    assert error(found) < 0.99 * error(plain)


def test_masked_weights_stay_zero_and_dead_inputs_give_nearest_values() -> None:
    mask = torch.rand(OUTPUTS, COLUMNS, generator=torch.Generator().manual_seed(0)) < 0.5
    task = make_task(mask=mask)
    assert not learn(task, draw_inputs())[0][~mask].any()
    inputs = draw_inputs()
    inputs[..., 5] = 0.0
    task = make_task()
    assert torch.equal(learn(task, inputs)[0, :, 5], task.template.decode()[:, 5])
    assert torch.equal(learn(task, inputs * 0)[0], task.template.decode())


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaround, "ROWS_BYTES", 4 * 50 * (COLUMNS + 2 * OUTPUTS))
    task = make_task()
    rows = AdaroundRows(task)
    for part in draw_inputs().split(100, dim=1):
        rows.add(part, part, None)
    inputs, wanted, beside = rows.joined(0)
    assert sum(each.nbytes for each in (inputs, wanted, beside)) <= adaround.ROWS_BYTES * 1.1
    assert inputs.shape[1] >= 40


def test_soft_weights_begin_near_the_float_ones_and_the_regulariser_wants_ends() -> None:
    task = make_task()
    soft = soften(task)
    assert isinstance(task.template, AffineInteger)
    step = task.template.scale.unsqueeze(1)
    assert bool(((soft.values() - task.matrix)[0].abs() <= 0.06 * step).all())
    assert torch.allclose(soft.hard()[0], task.template.decode(), atol=1e-6)
    assert float(soft.regulariser(0.1)) == 0.0
    middle = float(soft.regulariser(0.9))
    soft.latent.copy_(soft.latent.sign() * 10)
    assert float(soft.regulariser(0.9)) < 1e-3 < middle


@pytest.mark.parametrize("done", [0.1, 0.5, 0.9])
def test_the_gradient_is_that_of_the_error_and_the_regulariser(done: float) -> None:
    mask = torch.rand(OUTPUTS, COLUMNS, generator=torch.Generator().manual_seed(0)) < 0.5
    soft = soften(make_task(mask=mask))
    soft.latent.copy_(3 * torch.randn(soft.latent.shape, generator=torch.Generator().manual_seed(1)))
    slope = torch.randn(soft.latent.shape, generator=torch.Generator().manual_seed(2))
    found, step = soft.gradient(slope, done), 1e-2
    for place in [(0, 0, 0), (0, 3, 5), (0, 7, 23), (0, 4, 11)]:
        ends = []
        for sign in (1, -1):
            soft.latent[place] += sign * step
            ends.append(float((soft.values() * slope).sum() + soft.regulariser(done)))
            soft.latent[place] -= sign * step
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(found[place]), abs=2e-3)
