"""The optimal-brain update: which weights go, and what the others become, so that layers give what they gave."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.prune import optimal_brain
from core.compression.prune.masks import MaskPruner
from core.compression.prune.optimal_brain import InputMoments
from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.messages import LogMessage, Message, ProgressMessage
from core.network.encodings import AffineInteger, Masked, packed_grid
from core.network.network import Network
from core.specs.budgets import MaskBudget
from core.specs.mask_pruning import KernelPruning, MaskPruning, VectorPruning, WeightPruning

MakeContext = Callable[..., Context]


def quiet() -> None:
    """A tick that nobody waits for."""


def rows_of(columns: int, count: int = 400) -> Tensor:
    """Inputs that depend on each other, with a mean that is not zero."""
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(3, columns, generator=draw)
    mixed = torch.randn(count, 3, generator=draw) @ base + 0.3 * torch.randn(count, columns, generator=draw)
    return (mixed + 0.5).unsqueeze(0)


def surgery_of(matrix: Tensor, bias: Tensor | None, rows: Tensor) -> optimal_brain.Surgery:
    moments = InputMoments(matrix.shape[0], matrix.shape[2], biased=bias is not None)
    moments.add(rows, rows, None)
    return moments.problem(matrix, bias)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_what_stays_is_the_least_squares_solution(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal_brain, "_DAMPING", 1e-9)
    matrix, bias, rows = torch.randn(1, 5, 8), torch.randn(1, 5), rows_of(8)
    mask = torch.rand(1, 5, 8) < share
    found, moved = surgery_of(matrix, bias, rows).fit(mask, quiet)
    assert moved is not None
    wanted = (rows @ matrix.mT + bias.unsqueeze(1)).double()
    for row in range(5):
        kept = mask[0, row].nonzero().squeeze(1)
        inputs = torch.cat((rows[0][:, kept], torch.ones(400, 1)), 1).double()
        best = torch.linalg.lstsq(inputs, wanted[0, :, row : row + 1]).solution.squeeze(1)
        torch.testing.assert_close(found[0, row, kept], best[:-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(moved[0, row], best[-1], atol=1e-4, rtol=1e-4)
    assert not found[~mask].any()


def test_the_weights_that_go_first_are_those_that_the_others_make_up_for() -> None:
    # The last input is the sum of the others: without it nothing is lost, however large its weight is.
    rows = rows_of(4)
    rows = torch.cat((rows, rows.sum(-1, keepdim=True)), -1) + 1e-3 * torch.randn(1, 400, 5)
    matrix = torch.tensor([[[0.3, -0.2, 0.25, 0.4, 5.0]]])

    def select(worth: Tensor, done: float) -> Tensor:
        kept = torch.zeros_like(worth, dtype=torch.bool)
        return kept.scatter_(-1, worth.argsort(-1, descending=True)[..., : 4 if done == 1 else 5], value=True)

    surgery = surgery_of(matrix, None, rows)
    mask = surgery.choose(torch.ones_like(matrix, dtype=torch.bool), select, quiet)
    found, bias = surgery.fit(mask, quiet)
    assert bias is None
    left = float(((found.float() - matrix) @ rows.mT).square().mean() / (matrix @ rows.mT).square().mean())
    assert left < 1e-3


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_inputs_that_say_nothing_give_numbers(value: float) -> None:
    matrix, bias = torch.randn(2, 1, 6), torch.randn(2, 1)
    rows = torch.full((2, 50, 6), value)
    surgery = surgery_of(matrix, bias, rows)
    mask = torch.zeros(2, 1, 6, dtype=torch.bool)
    mask[..., 0] = True
    found, moved = surgery.fit(mask, quiet)
    assert moved is not None
    assert bool(torch.isfinite(found).all())
    answers = (rows.double() * found).sum(-1) + moved
    torch.testing.assert_close(answers, ((rows * matrix).sum(-1) + bias).double(), atol=1e-3, rtol=1e-3)


def test_a_product_wider_than_its_moments_is_solved_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.compression.second_moments.WIDEST", 4)
    matrix, bias, rows = torch.randn(1, 3, 9), torch.randn(1, 3), rows_of(9)
    mask = torch.rand(1, 3, 9) < 0.5
    surgery = surgery_of(matrix, bias, rows)
    found, moved = surgery.fit(mask, quiet)
    assert len(surgery.parts) == 3
    assert moved is not None
    assert found.shape == matrix.shape
    assert not found[~mask].any()


def answers(network: Network, dataset: Dataset) -> Tensor:
    with torch.no_grad():
        return network.graph(next(iter(dataset.batches("evaluation", 64))).inputs[dataset.inputs[0].name])


SPECS = [
    WeightPruning(keep=MaskBudget(weights=0.4)),
    WeightPruning(keep=MaskBudget(weights=0.4), criterion="fisher", ranking="output"),
    WeightPruning(n=2, m=4, criterion="l2"),
    WeightPruning(keep=MaskBudget(weights=0.4), block=(2, 3)),
    VectorPruning(keep=MaskBudget(weights=0.5)),
    KernelPruning(keep=MaskBudget(weights=0.5), criterion="wanda"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method} {spec.criterion}")
def test_answers_are_nearer_to_the_originals_with_as_many_weights(
    residual: Network, context: MakeContext, images: Dataset, spec: MaskPruning
) -> None:
    wanted, alone = answers(residual, images), replace(context(), alone=False)
    spec = spec.model_copy(update={"samples": 96})
    plain, _ = MaskPruner().apply(residual, spec.model_copy(update={"update": "none"}), alone)
    fitted, report = MaskPruner().apply(residual, spec, alone)
    check_step(residual, fitted, report, (next(images.batches("evaluation", 8)).inputs[images.inputs[0].name],))
    errors = [float((answers(each, images) - wanted).square().mean()) for each in (plain, fitted)]
    assert errors[1] < 0.8 * errors[0]
    for path in report.layers:
        masks = [each.encodings[f"{path}.weight"].mask for each in (plain, fitted)]
        assert int(masks[1].sum()) == pytest.approx(int(masks[0].sum()), abs=0.02 * masks[0].numel() + 1)
        if isinstance(spec, KernelPruning):
            assert bool((masks[1].flatten(2).float().std(2) == 0).all())
        if isinstance(spec, WeightPruning) and spec.n:
            rows = masks[1].flatten(1)
            assert bool((rows[:, : rows.shape[1] // 4 * 4].reshape(len(rows), -1, 4).sum(2) <= 2).all())


def test_the_same_comes_out_again(residual: Network, context: MakeContext, images: Dataset) -> None:
    spec, alone = WeightPruning(keep=MaskBudget(weights=0.3), samples=64), replace(context(), alone=False)
    first, again = (MaskPruner().apply(residual, spec, alone)[0] for _ in range(2))
    assert torch.equal(answers(again, images), answers(first, images))


def test_integers_keep_their_values_and_masks_within_masks_are_fitted_again(
    residual: Network, context: MakeContext, images: Dataset
) -> None:
    weight = residual.graph.get_parameter("fc1.weight")
    encoding = AffineInteger.of(weight, grid=packed_grid(4), axis=0)
    weight.data = encoding.decode()
    integers, alone = replace(residual, encodings={"fc1.weight": encoding}), replace(context(), alone=False)
    once, _ = MaskPruner().apply(integers, WeightPruning(keep=MaskBudget(weights=0.6), samples=64), alone)
    twice, _ = MaskPruner().apply(once, WeightPruning(keep=MaskBudget(weights=0.4), samples=64), alone)
    for name, put in twice.encodings.items():
        first = once.encodings[name]
        assert isinstance(put, Masked)
        assert isinstance(first, Masked)
        assert not bool((put.mask & ~first.mask).any())
        assert torch.equal(twice.graph.get_parameter(name), put.decode())
        same = torch.equal(put.decode()[put.mask], first.decode()[put.mask])
        assert same == (name == "fc1.weight")
    assert torch.equal(twice.graph.get_parameter("fc1.bias"), residual.graph.get_parameter("fc1.bias"))


def test_without_samples_weights_keep_their_values_unless_a_fit_is_asked_for(
    residual: Network, context: MakeContext, told: list[Message]
) -> None:
    without = replace(context(), dataset=None)
    pruned, report = MaskPruner().apply(residual, WeightPruning(), without)
    for name, put in pruned.encodings.items():
        assert isinstance(put, Masked)
        assert torch.equal(put.decode(), torch.where(put.mask, residual.graph.get_parameter(name), 0.0))
    assert report.plan["update"] == "none"
    assert any("keep their values" in each.text for each in told if isinstance(each, LogMessage))
    with pytest.raises(ModelpressError, match="data set"):
        MaskPruner().apply(residual, WeightPruning(update="optimal_brain"), without)


def test_a_cancel_is_noticed_in_the_fit(residual: Network, context: MakeContext) -> None:
    def cancel(message: Message) -> None:
        if isinstance(message, ProgressMessage) and message.message.startswith("Fitting one"):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        MaskPruner().apply(residual, WeightPruning(), replace(context(), emit=cancel))
