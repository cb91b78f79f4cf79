import pytest
import torch
from torch import fx, nn

from core.description import TensorDescription
from core.network.network import Network
from core.network.sampling import integer_limits, longest_text


class Positions(nn.Module):
    """Tokens and positions from two tables."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 4), nn.Embedding(positions, 4)
        self.register_buffer("numbers", torch.arange(positions)[None])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.words(ids) + self.places(self.numbers.narrow(1, 0, ids.size(1)))


def network(positions: int, length: int | str) -> Network:
    described = (TensorDescription(name="ids", dtype="int64", shape=("batch", length)),)
    return Network(fx.symbolic_trace(Positions(positions)), described, described, sizes={"sequence": 8})


@pytest.mark.parametrize(("positions", "longest"), [(64, 64), (100, 64), (2048, 512)])
def test_the_table_of_positions_says_how_long_a_text_may_be(positions: int, longest: int) -> None:
    assert longest_text(network(positions, "sequence")) == longest


def test_a_fixed_length_needs_no_search() -> None:
    assert longest_text(network(64, 32)) is None


def test_integers_stay_within_their_table() -> None:
    assert integer_limits(network(64, "sequence").graph) == (50,)


class OneHot(nn.Module):
    """Bytes as one-hot codes, compared with the numbers that they may be."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.arange(257, dtype=torch.int32))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.eq.Tensor(ids.unsqueeze(-1), self.numbers).float()


def test_integers_stay_within_their_one_hot_code() -> None:
    assert integer_limits(fx.symbolic_trace(OneHot())) == (257,)
