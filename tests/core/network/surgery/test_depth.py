"""What leaving a block out means: what went into it goes on, as if its branch added nothing."""

import functools
import sys

import pytest
import torch

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.network import Network
from core.network.surgery import Block, choose_blocks, drop_blocks, find_blocks, thin
from tests.core.network.surgery.comparing import answers, distance
from tests.core.network.surgery.structures import STRUCTURES, network_of


def silence(network: Network, *paths: str) -> None:
    for path in paths:
        network.graph.get_parameter(path).data.zero_()


def test_only_blocks_of_unchanged_shape_are_found() -> None:
    blocks = find_blocks(network_of(STRUCTURES["residual"]()))
    assert [(block.name, block.stage) for block in blocks] == [("body.1", 0), ("body.3", 1)]
    assert "body.1.first.0" in blocks[0].layers


def test_a_residual_block_that_is_left_out_adds_nothing() -> None:
    made = STRUCTURES["residual"]()
    network = network_of(made)
    dropped = drop_blocks(network, ["body.1"])
    silence(network, "body.1.second.1.weight", "body.1.second.1.bias")
    assert distance(answers(dropped, made[1]), answers(network, made[1])) < 1e-6
    assert not [name for name, _ in dropped.graph.named_parameters() if name.startswith("body.1.")]


def test_attention_and_what_follows_are_one_block() -> None:
    made = STRUCTURES["grouped_query"]()
    network = network_of(made)
    (block,) = find_blocks(network)
    assert {"q", "kv", "o", "gate_up", "down"} <= set(block.layers)
    dropped = drop_blocks(network, [block.name])
    silence(network, "o.weight", "down.weight")
    assert distance(answers(dropped, made[1]), answers(network, made[1])) < 1e-6
    assert {name for name, _ in dropped.graph.named_parameters()} == {"emb.weight", "out.weight"}
    assert not list(dropped.graph.buffers())


def test_where_no_norm_made_the_stream_the_last_norm_of_a_layer_stays() -> None:
    made = STRUCTURES["torch_attention"]()
    network = network_of(made)
    (block,) = find_blocks(network)
    assert block.name == "layer"
    dropped = drop_blocks(network, ["layer"])
    left = {name for name, _ in dropped.graph.named_parameters()}
    assert left == {"i.weight", "i.bias", "layer.norm2.weight", "layer.norm2.bias", "head.weight", "head.bias"}
    assert answers(dropped, made[1])[0].shape == (3, 5)


def test_a_sum_with_nothing_in_between_is_no_block() -> None:
    assert not find_blocks(network_of(STRUCTURES["halves"]()))


def test_a_sum_of_more_terms_than_calls_may_nest_is_taken_apart() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    terms = sys.getrecursionlimit() + 100
    graph.output(
        functools.reduce(lambda total, _: graph.call_function(torch.ops.aten.add.Tensor, (total, x)), [x] * terms)
    )
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    shapes = TensorDescription(name="x", dtype="float32", shape=("batch", 2))
    assert not find_blocks(Network(module, (shapes,), (shapes,)))


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelpressError, match=r"no block body\.2") as caught:
        drop_blocks(network_of(STRUCTURES["residual"]()), ["body.2"])
    assert caught.value.code == "invalid_request"
    assert "body.1, body.3" in caught.value.hint


def blocks_of(*stages: int) -> list[Block]:
    return [
        Block(f"{stage}.{index}", (), (), stage, None, None)
        for stage, count in enumerate(stages)
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("stages", "depth", "dropped"),
    [
        ((12,), 0.5, ["0.1", "0.3", "0.5", "0.6", "0.8", "0.10"]),
        ((3, 2, 2), 0.5, ["0.1", "1.1", "2.1"]),
        ((1, 1), 0.5, ["1.0"]),
        ((4,), 0.01, ["0.1", "0.2", "0.3"]),
        ((4,), 1.0, []),
        # Rounding alone would leave all.
        ((4,), 0.9, ["0.1"]),
        ((1, 1, 1), 0.99, ["1.0"]),
        ((1,), 0.5, []),
    ],
)
def test_what_stays_is_spread_evenly(stages: tuple[int, ...], depth: float, dropped: list[str]) -> None:
    assert list(choose_blocks(blocks_of(*stages), depth)) == dropped


def test_a_student_is_shallow_and_narrow() -> None:
    made = STRUCTURES["residual"]()
    teacher = network_of(made)
    student = thin(teacher, width=0.5, depth=0.5)
    names = {name for name, _ in student.graph.named_parameters()}
    assert "body.1.first.0.weight" in names
    assert "body.3.first.0.weight" not in names
    assert answers(student, made[1])[0].shape == (3, 10)
    with pytest.raises(ModelpressError, match="no residual blocks") as caught:
        thin(network_of(STRUCTURES["halves"]()), depth=0.5)
    assert caught.value.code == "method_not_applicable"
    assert torch.equal(
        thin(teacher, width=1, depth=0.5).graph.get_parameter("head.weight"), teacher.graph.get_parameter("head.weight")
    )


def test_the_only_block_cannot_go() -> None:
    with pytest.raises(ModelpressError, match="only block") as caught:
        thin(network_of(STRUCTURES["grouped_query"]()), depth=0.5)
    assert caught.value.code == "method_not_applicable"
