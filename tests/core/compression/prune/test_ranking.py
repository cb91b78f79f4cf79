import pytest
import torch

from core.compression.prune.ranking import Scored, keep_n_of_m, keep_of_all, keep_of_each, keep_of_outputs
from core.compression.prune.units import Units


def loud(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("units", "parts"),
    [
        (Units.single((6, 4, 3, 3)), 216),
        (Units.along((6, 4, 3, 3), (3,)), 72),
        (Units.along((6, 4, 3, 3), (2,)), 72),
        (Units.along((6, 4, 3, 3), (2, 3)), 24),
        (Units.blocks((6, 4, 3, 3), 2, 4), 27),
        # What does not fit makes smaller blocks at the ends.
        (Units.blocks((5, 7), 2, 4), 6),
    ],
)
def test_units_divide_a_weight(units: Units, parts: int) -> None:
    values = loud(*units.shape)
    total = units.total(values)
    assert total.numel() == parts
    torch.testing.assert_close(total.sum(), values.sum())
    # Each weight gets the number of its unit: as many weights have it as the unit holds.
    numbers = units.spread(torch.arange(parts).reshape(total.shape))
    sizes = units.total(torch.ones(units.shape)).flatten().long()
    assert torch.equal(torch.bincount(numbers.flatten(), minlength=parts), sizes)
    sums = torch.zeros(parts).index_add_(0, numbers.flatten(), values.flatten())
    torch.testing.assert_close(sums, total.flatten())


def test_all_layers_share_one_ranking_and_none_is_emptied() -> None:
    loud_one, quiet = loud(4, 8), 0.001 * loud(3, 5)
    scored = {name: Scored.of(Units.single(v.shape), v.abs()) for name, v in {"loud": loud_one, "quiet": quiet}.items()}
    kept = keep_of_all({name: each.mean for name, each in scored.items()}, scored, 0.5)
    assert int(kept["loud"].sum()) == 24  # 23.5, rounded
    assert kept["quiet"].sum() == 1
    assert bool(kept["quiet"].flatten()[quiet.abs().argmax()])
    lowest, highest = loud_one.abs()[kept["loud"]].min(), loud_one.abs()[~kept["loud"]].max()
    assert lowest > highest


def test_units_count_by_the_weights_that_they_hold() -> None:
    # Three blocks of two weights, one of one.
    values = torch.tensor([[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 9.0]])
    scored = {"w": Scored.of(Units.blocks((1, 7), 1, 2), values)}
    kept = keep_of_all({"w": scored["w"].mean}, scored, 3 / 7)
    assert scored["w"].mask(kept["w"]).tolist() == [[False, False, False, False, True, True, True]]


def test_lamp_is_the_share_of_what_is_no_smaller() -> None:
    weight = torch.tensor([1.0, -3.0, 2.0, 0.0])
    scores = Scored.of(Units.single((4,)), weight.square()).lamp()
    torch.testing.assert_close(scores, torch.tensor([1 / 14, 1.0, 4 / 13, 0.0], dtype=torch.float64))


def test_lamp_is_a_number_where_all_is_zero() -> None:
    scores = Scored.of(Units.single((3,)), torch.zeros(3)).lamp()
    assert scores.tolist() == [0.0, 0.0, 0.0]


def test_of_each_layer_the_best_stay_and_at_least_one() -> None:
    score = loud(5, 6).abs()
    kept = keep_of_each(score, 0.3)
    assert int(kept.sum()) == 9
    assert score[kept].min() > score[~kept].max()
    assert int(keep_of_each(score, 0.001).sum()) == 1


def test_of_each_output_as_many_stay() -> None:
    score = loud(5, 3, 2).abs()
    kept = keep_of_outputs(score, 0.5)
    assert kept.flatten(1).sum(1).tolist() == [3] * 5
    for row, chosen in zip(score.flatten(1), kept.flatten(1), strict=True):
        assert row[chosen].min() > row[~chosen].max()


def test_two_of_four_in_a_row() -> None:
    score = torch.tensor([[4.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    kept = keep_n_of_m(score, 2, 4)
    # The last two are a row of their own, of which two stay.
    assert kept.tolist() == [[True, False, False, True, False, False, True, True, True, True]]


def test_equals_go_by_their_place() -> None:
    kept = keep_of_each(torch.ones(2, 4), 0.5)
    assert kept.flatten().tolist() == [True] * 4 + [False] * 4
