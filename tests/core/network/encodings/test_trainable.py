"""Encoded weights in training: what they compute is what is stored, and their gradients are those of the papers."""

import copy

import pytest
import torch
from torch import Tensor

from core.network.encodings import AffineInteger, Codebook, Dense, Encoding, Levels, LowRank, Masked, packed_grid
from core.network.encodings.affine_integer import IntegerWeight
from core.network.encodings.codebook import BookWeight
from tests.core.network.encodings.cases import CASES, sample


def gradients(encoding: Encoding, weight: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Gradients of Σ w·wanted by parameter: ∂L/∂w is `wanted`."""
    trainable = encoding.trainable(weight)
    (trainable() * wanted).sum().backward()
    return {name: each.grad for name, each in trainable.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_what_is_trained_is_what_is_stored(name: str) -> None:
    """Bit by bit, at the start and after steps; two copies that learn alike stay alike."""
    weight = sample()
    encoding = CASES[name](weight)
    goal = sample(seed=1)
    one = encoding.trainable(weight)
    assert torch.equal(one.encode().decode(), one())
    other = copy.deepcopy(one)
    losses = []
    for trainable in (one, other):
        optimiser = torch.optim.Adam(trainable.parameters(), lr=2e-3)
        for _ in range(20):
            optimiser.zero_grad()
            loss = (trainable() - goal).square().mean()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    made = one.encode()
    assert torch.equal(made.decode(), one())
    assert torch.equal(made.decode(), other.encode().decode())
    assert (made.kinds, made.shape) == (encoding.kinds, encoding.shape)
    assert losses[19] < losses[0]
    if isinstance(encoding, Masked) and isinstance(made, Masked):
        assert torch.equal(made.mask, encoding.mask)


def test_the_scale_learns_as_the_paper_says() -> None:
    """Equation 3 of arXiv 1902.08153 for 3 bits: round(v) − v inside, −3 or 3 outside, over √(N·3)."""
    weight = torch.tensor([[0.2, 0.9, -1.3, 5.0, -9.0]])
    scale = torch.tensor([1.0])
    encoding = AffineInteger.of(weight, grid=packed_grid(3), axis=0, scale=scale)
    wanted = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    found = gradients(encoding, weight, wanted)
    slopes = torch.tensor([-0.2, 0.1, 0.3, 3.0, -3.0])
    assert torch.allclose(found["scale"], (wanted * slopes).sum() / (5 * 3) ** 0.5)
    # Straight through inside of the grid (equation 5), and outside where descent leads back.
    assert torch.equal(found["latent"], torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0]]))


def test_every_channel_and_group_has_a_gradient_of_its_own() -> None:
    weight, wanted = sample((4, 6)), sample((4, 6), seed=2)
    for grid, rows in ((packed_grid(4), 4), (packed_grid(4, group=3), 8)):
        found = gradients(AffineInteger.of(weight, grid=grid, axis=0), weight, wanted)["scale"]
        alone = [
            gradients(AffineInteger.of(part, grid=packed_grid(4), axis=0), part, of)["scale"]
            for part, of in zip(weight.reshape(rows, 1, -1), wanted.reshape(rows, 1, -1), strict=True)
        ]
        assert torch.allclose(found.reshape(-1), torch.cat(alone))


def test_a_zero_point_bounds_the_gradient_on_both_sides() -> None:
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    encoding = AffineInteger.asymmetric(weight, grid=packed_grid(2, asymmetric=True), axis=0)
    moved = torch.tensor([[-0.4, 1.2, 3.1, 2.0]])
    found = gradients(encoding, moved, torch.ones(1, 4))
    assert torch.equal(found["latent"], torch.tensor([[0.0, 1.0, 1.0, 1.0]]))


@pytest.mark.parametrize("outside", [1.5, -1.5])
def test_a_weight_beyond_the_last_level_finds_its_way_back(outside: float) -> None:
    """As all do that begin on it once their scale has shrunk."""
    weight = torch.tensor([[1.0, 0.0]]) * outside
    trainable = Levels.binary(weight, axis=0, scale=torch.tensor([1.0])).trainable(weight)
    optimiser = torch.optim.SGD([trainable.get_parameter("latent")], lr=0.5)
    for _ in range(4):
        optimiser.zero_grad()
        (trainable() * outside).sum().backward()
        optimiser.step()
    assert float(trainable().detach()[0, 0]) == -float(torch.tensor(outside).sign())


def test_the_gradient_of_a_shared_value_is_the_sum_over_its_weights() -> None:
    """Section 3.3 of arXiv 1510.00149."""
    book = torch.tensor([-1.0, 0.0, 2.0])
    weight = torch.tensor([[2.0, 2.0, -1.0], [0.0, -1.0, 2.0]])
    wanted = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = gradients(Codebook.of(weight, book), weight, wanted)["book"]
    assert torch.equal(found, torch.tensor([8.0, 4.0, 9.0]))


def test_what_a_mask_leaves_out_has_no_gradient() -> None:
    weight = torch.ones(2, 3)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    found = gradients(Masked(mask, Dense(weight)), weight, torch.full((2, 3), 2.0))
    assert torch.equal(found["inner.weight"], mask * 2.0)


def test_a_binary_weight_can_change_its_sign() -> None:
    weight = torch.tensor([[0.1, -0.1, 0.1, -0.1]])
    trainable = Levels.binary(weight, axis=0).trainable(weight)
    optimiser = torch.optim.SGD(trainable.parameters(), lr=0.05)
    for _ in range(8):
        optimiser.zero_grad()
        (trainable() - torch.tensor([[-0.1, -0.1, 0.1, 0.1]])).square().sum().backward()
        optimiser.step()
    assert torch.equal(trainable.encode().decode().sign(), torch.tensor([[-1.0, -1.0, 1.0, 1.0]]))


def test_latent_weights_start_where_they_are_told_and_scales_stay_positive() -> None:
    weight = sample((3, 5))
    trainable = AffineInteger.of(weight, grid=packed_grid(4), axis=0).trainable(weight)
    assert isinstance(trainable, IntegerWeight)
    assert torch.equal(trainable.latent, weight)
    trainable.scale.data.fill_(-1.0)
    made = trainable.encode()
    assert bool((made.scale > 0).all())
    assert torch.equal(made.decode(), trainable())


def test_factors_and_books_do_not_move_by_being_mounted() -> None:
    weight = sample((6, 4))
    for encoding in (LowRank.of(weight, 2), Codebook.of(weight, torch.tensor([-0.1, 0.0, 0.1]))):
        trainable = encoding.trainable(weight * 2)
        assert torch.equal(trainable(), encoding.decode())
    assert [name for name, _ in BookWeight(Codebook.of(weight, torch.zeros(1))).named_parameters()] == ["book"]
