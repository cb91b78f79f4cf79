import pytest
import torch

from core.compression.candidates import find_candidates, put_encodings
from core.errors import ModelpressError
from core.network.encodings import AffineInteger, Dense, Masked, packed_grid
from core.network.inspect import read
from core.network.network import Network

TAKES = frozenset({"dense", "masked"})


def test_weights_in_graph_order_and_what_shares_them(attention_file) -> None:
    found, left_out = find_candidates(read(attention_file), ("out",), takes=TAKES)
    assert [candidate.name for candidate in found] == ["qkv.weight", "mlp1.weight", "mlp2.weight"]
    # The table is the head's weight, too.
    assert len(left_out) == 2


def test_encoded_weights_are_left_out_unless_they_are_taken(residual: Network) -> None:
    weight = residual.graph.get_parameter("stem.weight")
    integers = put_encodings(residual, {"stem.weight": AffineInteger.of(weight, grid=packed_grid(4), axis=0)})
    _, left_out = find_candidates(integers, (), takes=TAKES)
    assert left_out == ("stem",)
    assert "stem" in {each.path for each in find_candidates(integers, (), takes=TAKES | {"affine_integer"})[0]}


def test_a_mask_stays_and_all_else_is_the_same(residual: Network) -> None:
    weight = residual.graph.get_parameter("fc1.weight")
    mask = weight.detach().abs() > weight.detach().abs().median()
    masked = put_encodings(residual, {"fc1.weight": Masked(mask, Dense(weight))})
    rounded = put_encodings(masked, {"fc1.weight": AffineInteger.of(weight, grid=packed_grid(4), axis=0)})
    assert rounded.encodings["fc1.weight"].kinds == ("masked", "affine_integer")
    assert not rounded.graph.get_parameter("fc1.weight")[~mask].any()
    for name, tensor in rounded.graph.state_dict().items():
        assert name == "fc1.weight" or torch.equal(tensor, residual.graph.state_dict()[name]), name
    assert torch.equal(residual.graph.get_parameter("fc1.weight"), weight)


def test_nothing_left_and_weights_that_are_no_numbers_are_said(residual: Network) -> None:
    with pytest.raises(ModelpressError) as caught:
        find_candidates(residual, {name for name, _ in residual.graph.named_modules()}, takes=TAKES)
    assert caught.value.code == "unsupported_layer"
    residual.graph.get_parameter("fc2.weight").data[0, 0] = float("nan")
    with pytest.raises(ModelpressError) as caught:
        find_candidates(residual, (), takes=TAKES)
    assert (caught.value.code, "fc2" in caught.value.detail) == ("non_finite", True)
