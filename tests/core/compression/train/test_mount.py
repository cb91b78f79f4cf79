"""Training goes through the encodings: weights stay on their grids, and what comes back is what was trained."""

from dataclasses import replace

import pytest
import torch

from core.compression.candidates import put_encodings
from core.compression.checks import check_step
from core.compression.method import Report
from core.compression.quantize import QUANTIZE
from core.compression.train.grids import LearningGrid
from core.compression.train.losses import TaskObjective
from core.compression.train.mount import TrainableNetwork
from core.compression.train.trainer import train
from core.compression.yardstick import input_batches
from core.errors import ModelpressError
from core.network.encodings import ActivationGrid, AffineInteger, Dense, Masked, symmetric_grid
from core.network.export import export_onnx
from core.network.export_check import noise_inputs
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.specs.linear import LinearQuantization
from core.specs.train import Training

SETTINGS = Training(epochs=4, batch_size=32, lr=0.003, augment="none")


@pytest.fixture
def trained(small, shapes, context):
    settings = SETTINGS.model_copy(update={"epochs": 6, "lr": 0.01})
    return train(small, TaskObjective("classification"), shapes, settings, context(shapes)).network


@pytest.fixture
def quantized(trained, shapes, context):
    found, _ = QUANTIZE[LinearQuantization].apply(trained, LinearQuantization(), context(shapes))
    return found


def encode(network, path, bits):
    """A copy with one weight on a symmetric grid."""
    weight = network.graph.get_parameter(path).detach()
    encoding = AffineInteger.of(weight, grid=symmetric_grid(bits), axis=0)
    mounted = TrainableNetwork(network).unmount()
    mounted.graph.get_parameter(path).data = encoding.decode()
    return replace(mounted, encodings={**network.encodings, path: encoding})


def grids(network):
    return {path: each for path, each in network.graph.named_modules() if isinstance(each, ActivationGrid)}


def loss_of(network, dataset, split="validation"):
    (batch,) = dataset.batches(split, 1000)
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(network.graph(*batch.inputs.values()), batch.labels))


def test_mounting_changes_no_answer(quantized, shapes):
    (batch,) = shapes.batches("evaluation", 1000)
    inputs = tuple(batch.inputs.values())
    mounted = TrainableNetwork(quantized)
    with torch.no_grad():
        wanted = quantized.graph(*inputs)
        assert torch.equal(mounted(*inputs).outputs[0], wanted)
        assert torch.equal(mounted.unmount().graph(*inputs), wanted)


def test_every_grid_and_weight_gets_a_gradient(quantized, shapes):
    (batch,) = shapes.batches("train", 1000)
    mounted = TrainableNetwork(quantized)
    mounted(*batch.inputs.values()).outputs[0].square().mean().backward()
    gradients = {name: each.grad for name, each in mounted.named_parameters() if each.requires_grad}
    still = {name for name, gradient in gradients.items() if gradient is None or not bool(gradient.any())}
    # A weight that lies on its grid, as all do at first, has no rounding error that its scale could change.
    assert still == {"weights.0.scale", "weights.1.scale"}
    assert any(isinstance(each, LearningGrid) for each in mounted.modules())


def test_training_after_quantization_keeps_every_grid(quantized, shapes, context, tmp_path):
    found = train(quantized, TaskObjective("classification"), shapes, SETTINGS, context(shapes))
    network = found.network
    assert network.encodings.keys() == quantized.encodings.keys()
    for path, encoding in network.encodings.items():
        assert encoding.name == quantized.encodings[path].name
        assert not torch.equal(encoding.decode(), quantized.encodings[path].decode())
    assert grids(network).keys() == grids(quantized).keys()
    assert loss_of(network, shapes) < loss_of(quantized, shapes)
    # Runtimes add the bias to sums at the scale of the products.
    source = next(node for node in network.graph.graph.nodes if node.target == "conv").all_input_nodes[0]
    scale = network.graph.get_submodule(source.target).scale * network.encodings["conv.weight"].scale
    assert torch.equal(network.encodings["conv.bias"].scale, scale)
    probes = noise_inputs(network)
    check_step(quantized, network, Report(layers=found.layers), probes)
    export_onnx(network, tmp_path / "model.onnx", probes=probes)


def test_two_bits_learn_what_rounding_lost(trained, shapes, context):
    rounded = encode(trained, "fc.weight", 2)
    settings = SETTINGS.model_copy(update={"epochs": 6})
    found = train(rounded, TaskObjective("classification"), shapes, settings, context(shapes)).network
    assert loss_of(found, shapes) < 0.5 * (loss_of(rounded, shapes) + loss_of(trained, shapes))
    integers = found.encodings["fc.weight"].integers
    assert set(integers.unique().tolist()) <= {-1, 0, 1}
    assert not torch.equal(found.encodings["fc.weight"].scale, rounded.encodings["fc.weight"].scale)


def test_watched_values_are_those_of_the_graph(small, shapes):
    (batch,) = shapes.batches("evaluation", 1000)
    inputs = tuple(batch.inputs.values())
    answers = TrainableNetwork(small, watched=("conv",))(*inputs)
    assert torch.equal(answers.watched["conv"], small.graph.conv(*inputs))
    with pytest.raises(ModelpressError, match="no node nowhere"):
        TrainableNetwork(small, watched=("nowhere",))


def test_tied_weights_stay_tied(small, shapes, context):
    tied = TrainableNetwork(small).unmount()
    tied.graph.norm.bias = tied.graph.conv.bias
    found = train(tied, TaskObjective("classification"), shapes, SETTINGS, context(shapes)).network
    assert found.graph.norm.bias is found.graph.conv.bias
    assert not torch.equal(found.graph.conv.bias, small.graph.conv.bias)


def test_a_tied_weight_on_a_grid_is_learnt_once(attention_file):
    network = fold_batch_norm(read(attention_file))
    weight = network.graph.get_parameter("head.weight")
    tied = {name for name, each in network.graph.named_parameters(remove_duplicate=False) if each is weight}
    assert len(tied) == 2
    encoding = AffineInteger.of(weight.detach(), grid=symmetric_grid(8), axis=0)
    weight.data = encoding.decode()
    network.encodings.update(dict.fromkeys(tied, encoding))
    mounted = TrainableNetwork(network)
    assert len(mounted.weights) == 1
    ids = torch.arange(18).reshape(2, 9) % 11
    assert torch.equal(mounted(ids).outputs[0], network.graph(ids))
    mounted(ids).outputs[0].square().mean().backward()
    with torch.no_grad():
        for parameter in mounted.weights.parameters():
            parameter.sub_(0.1 * parameter.grad)
        found = mounted.unmount()
        assert torch.equal(found.graph(ids), mounted(ids).outputs[0])
    parameters = dict(found.graph.named_parameters(remove_duplicate=False))
    assert len({id(parameters[name]) for name in tied}) == len({id(found.encodings[name]) for name in tied}) == 1
    assert not torch.equal(parameters["head.weight"], weight)


def test_masked_integers_powers_of_two_and_dynamic_inputs_learn_and_stay_what_they_are(trained, shapes, context):
    for activations in ({"bits": 6, "scale": "power_of_two"}, {"mode": "dynamic"}):
        matrices = (name for name, each in trained.graph.named_parameters() if each.dim() == 2)
        name = next(matrices)
        weight = trained.graph.get_parameter(name)
        mask = weight.detach().abs() > weight.detach().abs().median()
        pruned = put_encodings(trained, {name: Masked(mask, Dense(weight))})
        spec = LinearQuantization.model_validate(
            {"weights": {"bits": 4, "scale": "power_of_two"}, "activations": activations}
        )
        network, _ = QUANTIZE[LinearQuantization].apply(pruned, spec, context(shapes))
        learner = TrainableNetwork(network)
        optimiser = torch.optim.SGD(learner.parameters(), lr=0.05)
        inputs = next(input_batches(network, shapes, "calibration", limit=32))
        for _ in range(3):
            optimiser.zero_grad()
            learner(*inputs).outputs[0].square().sum().backward()
            optimiser.step()
        learnt = learner.unmount()
        assert not torch.equal(learnt.graph.get_parameter(name), network.graph.get_parameter(name))
        assert not learnt.graph.get_parameter(name)[~mask].any()
        scales = [each.scale for each in learnt.graph.modules() if isinstance(each, ActivationGrid)]
        scales.append(learnt.encodings[name].inner.scale)
        assert all(torch.equal(torch.log2(scale), torch.log2(scale).round()) for scale in scales)
        with torch.no_grad():
            assert torch.equal(learnt.graph(*inputs), learner(*inputs).outputs[0])
