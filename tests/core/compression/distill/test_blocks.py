"""Blocks that earlier steps have changed learn to give what the original gives."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from core.compression.checks import check_step
from core.compression.distill import block_samples
from core.compression.distill.block_method import BlockMethod
from core.compression.distill.blocks import changed_layers, cut_out, find_blocks, shared_layers
from core.compression.method import Report
from core.compression.quantize.linear import LinearQuantizer
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.messages import LogMessage, MetricMessage
from core.network.encodings import AffineInteger, Dense, Encoding, Masked, packed_grid
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.network.share import copy_graph
from core.specs.distill import BlockDistillation
from core.specs.linear import LinearQuantization
from tests.core.compression.distill.conftest import distance
from tests.core.compression.distill.test_methods import Kept, WorkerDiedError, same

SPEC = BlockDistillation(samples=200, epochs=10)


@pytest.fixture
def attention(attention_file) -> Network:
    return fold_batch_norm(read(attention_file))


def encoded(network: Network, encode: Callable[[torch.Tensor], Encoding], *layers: str) -> Network:
    """A copy whose weights are encoded in these layers."""
    made = replace(network, graph=copy_graph(network.graph), encodings={})
    for layer in layers:
        weight = made.graph.get_parameter(f"{layer}.weight")
        made.encodings[f"{layer}.weight"] = encode(weight)
        weight.data = made.encodings[f"{layer}.weight"].decode()
    return made


def to_three_bits(weight: torch.Tensor) -> Encoding:
    return AffineInteger.of(weight, grid=packed_grid(3), axis=0)


def to_half(weight: torch.Tensor) -> Encoding:
    mask = weight.abs() > weight.abs().median()
    return Masked(mask, Dense(torch.where(mask, weight, 0.0)))


@pytest.fixture
def blocks(context, teacher, data) -> Callable[..., tuple[Network, Report]]:
    def run(network: Network, spec: BlockDistillation = SPEC, dataset: Dataset = data) -> tuple[Network, Report]:
        given = replace(context(), step="distill.blocks", original=teacher, dataset=dataset)
        return BlockMethod().apply(network, spec, given)

    return run


class TestFindBlocks:
    @pytest.mark.parametrize("name", ["residual", "attention"])
    def test_blocks_one_after_the_other_are_the_network(self, name, request):
        network = request.getfixturevalue(name)
        first = network.inputs[0]
        inputs = torch.randn(3, *first.shape[1:]) if first.dtype == "float32" else torch.randint(0, 11, (3, 9))
        value = None
        for block in find_blocks(network, network):
            part = cut_out(network, block.start, block.end)
            takes = [inputs if tensor.name == first.name else value for tensor in part.inputs]
            value = part.graph(*takes)
        assert torch.equal(value, network.graph(inputs))

    def test_a_residual_block_is_one_and_an_activation_goes_with_its_layer(self, residual):
        layers = [block.layers for block in find_blocks(residual, residual)]
        assert layers == [
            ("stem",),
            ("one.conv1", "one.conv2", "one.short"),
            ("two.conv1", "two.conv2", "two.short"),
            ("fc1",),
            ("fc2",),
        ]

    def test_layers_that_are_tied_are_told(self, attention):
        assert shared_layers(attention) == {"head", "head_2"}

    def test_a_quantized_network_has_the_blocks_of_its_original(self, residual, context):
        quantized, _ = LinearQuantizer().apply(residual, LinearQuantization(), context())
        assert find_blocks(quantized, residual) == find_blocks(residual, residual)


class TestBlockMethod:
    def test_three_bit_weights_come_near_the_original_on_their_grid(self, blocks, teacher, data):
        rounded = encoded(teacher, to_three_bits, "one.conv1", "two.conv1", "fc1")
        result, report = blocks(rounded)
        assert distance(result, teacher, data) < 0.5 * distance(rounded, teacher, data)
        check_step(rounded, result, report, (torch.randn(4, 3, 12, 12),))
        assert result.encodings.keys() == rounded.encodings.keys()
        assert all(encoding.name == rounded.encodings[name].name for name, encoding in result.encodings.items())
        # Blocks without a change are not touched; in the others every layer may learn.
        assert set(report.layers) <= {
            "one.conv1",
            "one.conv2",
            "one.short",
            "two.conv1",
            "two.conv2",
            "two.short",
            "fc1",
        }

    def test_zeros_stay_zeros(self, blocks, teacher, data):
        masked = encoded(teacher, to_half, "two.conv2")
        result, _ = blocks(masked)
        zeros = masked.graph.get_parameter("two.conv2.weight") == 0
        assert torch.equal(result.graph.get_parameter("two.conv2.weight")[zeros], torch.zeros(int(zeros.sum())))
        assert distance(result, teacher, data) < distance(masked, teacher, data)

    def test_int8_grids_and_biases_stay_legal(self, blocks, teacher, data, context):
        quantized, _ = LinearQuantizer().apply(teacher, LinearQuantization(), replace(context(), dataset=data))
        result, report = blocks(quantized, BlockDistillation(samples=100, epochs=2, lr=3e-5))
        check_step(quantized, result, report, (torch.randn(4, 3, 12, 12),))
        # At 8 bits there is next to nothing to win.
        assert distance(result, teacher, data) < 1.05 * distance(quantized, teacher, data)

    def test_unlabelled_samples_give_the_same(self, blocks, teacher, file, data):
        bare = DatasetSpec(task="none", splits={"train": SplitArrays(x="x")})
        rounded = encoded(teacher, to_three_bits, "fc1")
        one, _ = blocks(rounded)
        other, _ = blocks(rounded, dataset=open_dataset([file], bare, teacher.inputs))
        assert all(map(torch.equal, one.graph.state_dict().values(), other.graph.state_dict().values()))

    def test_a_network_like_its_original_has_nothing_to_learn(self, blocks, teacher):
        result, report = blocks(teacher)
        assert result is teacher
        assert [finding.code for finding in report.findings] == ["nothing_to_learn"]

    def test_tied_blocks_stay_and_are_told(self, attention, context, told, data):
        rounded = encoded(attention, to_three_bits, "head")
        _, report = BlockMethod().apply(rounded, SPEC, replace(context(), original=attention, dataset=data))
        assert report.layers == ()
        assert any("is used elsewhere" in message.text for message in told if isinstance(message, LogMessage))

    def test_a_network_of_a_fixed_batch_learns_by_whole_batches(self, context, teacher, data, told):
        graph = copy_graph(teacher.graph)
        given = next(iter(graph.graph.nodes))
        with graph.graph.inserting_after(given):
            bound = graph.graph.call_function(torch.ops.aten.view.default, (given, [4, 3, 12, 12]))
        given.replace_all_uses_with(bound, lambda user: user is not bound)
        graph.recompile()
        inputs = tuple(each.model_copy(update={"shape": (4, *each.shape[1:])}) for each in teacher.inputs)
        fixed = replace(teacher, graph=graph, inputs=inputs, batch="fixed")
        rounded = encoded(fixed, to_three_bits, "stem")
        asked = replace(context(), original=fixed, dataset=data)
        result, report = BlockMethod().apply(rounded, BlockDistillation(samples=46, epochs=4, batch_size=10), asked)
        (block,) = report.plan["blocks"]
        # 44 samples fill batches of 4; of these 8 judge.
        assert (block["samples"], block["steps"], block["kept"]) == (44, 18, True)
        assert changed_layers(result, rounded) >= {"stem"}

    def test_memory_bounds_the_samples(self, blocks, teacher, told, monkeypatch):
        monkeypatch.setattr(block_samples, "REMEMBERED_BYTES", 40_000)
        blocks(encoded(teacher, to_three_bits, "one.conv1"))
        (line,) = [message.text for message in told if isinstance(message, LogMessage) and "error" in message.text]
        assert line.endswith("32 samples.")

    def test_goes_on_after_the_last_block_to_the_same_bits(self, teacher, data, context):
        rounded = encoded(teacher, to_three_bits, "one.conv1", "two.conv1", "fc1")

        def run(checkpoint: Kept) -> tuple[Network, Report]:
            given = replace(context(), original=teacher, dataset=data, checkpoint=checkpoint)
            return BlockMethod().apply(rounded, BlockDistillation(samples=60, epochs=2, lr=1e-3), given)

        whole, report = run(Kept())
        checkpoint = Kept(after=2)
        with pytest.raises(WorkerDiedError):
            run(checkpoint)
        checkpoint.after = 10**6
        resumed, again = run(checkpoint)
        assert checkpoint.kept == len(report.plan["blocks"]) > 2
        assert report.plan["blocks"][0]["kept"]
        assert same(resumed, whole)
        assert again.plan == report.plan
        assert all(
            torch.equal(encoding.decode(), resumed.encodings[path].decode())
            for path, encoding in whole.encodings.items()
        )

    def test_another_model_may_teach(self, teacher, data, context):
        other = replace(teacher, graph=copy_graph(teacher.graph))
        for name in ("one.conv1", "fc1"):
            weight = other.graph.get_parameter(f"{name}.weight")
            weight.data = weight * 1.3
        asked = BlockDistillation(samples=100, epochs=10, lr=1e-3, teacher="mdl_1")
        assert asked.references() == {"teacher": "mdl_1"}
        given = replace(context(), original=teacher, dataset=data, models={"mdl_1": other})
        result, report = BlockMethod().apply(teacher, asked, given)
        assert [block["kept"] for block in report.plan["blocks"]] == [True, True]
        assert distance(result, other, data) < 0.5 * distance(teacher, other, data)

    def test_a_block_that_became_worse_stays(self, blocks, teacher, told):
        rounded = encoded(teacher, to_three_bits, "fc2")
        result, report = blocks(rounded, BlockDistillation(samples=100, epochs=1, lr=10.0))
        assert report.plan["blocks"][0]["kept"] is False
        assert torch.equal(result.graph.get_parameter("fc2.weight"), rounded.graph.get_parameter("fc2.weight"))
        assert [message.value for message in told if isinstance(message, MetricMessage)]

    def test_is_the_same_twice_and_does_not_change_what_it_is_given(self, blocks, teacher):
        rounded = encoded(teacher, to_three_bits, "one.conv1", "fc1")
        before = {name: value.clone() for name, value in rounded.graph.state_dict().items()}
        one, two = blocks(rounded)[0], blocks(rounded)[0]
        assert all(map(torch.equal, one.graph.state_dict().values(), two.graph.state_dict().values()))
        assert all(torch.equal(value, rounded.graph.state_dict()[name]) for name, value in before.items())
        assert changed_layers(one, rounded) >= {"fc1"}
