"""Students that are cut out are brought back to the scale of their teacher's values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from core.compression.distill.recalibration import recalibrate
from core.data.dataset import open_dataset
from core.messages import LogMessage
from core.network.network import Network
from core.network.share import copy_graph
from core.network.surgery.thinning import cut_out_thin, magnitude
from tests.core.compression.conftest import IMAGES
from tests.core.compression.distill.conftest import distance


def outputs_of(network: Network, layer: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = network.graph.get_submodule(layer).register_forward_hook(lambda *given: found.append(given[2]))
    with torch.no_grad():
        network.graph(x)
    handle.remove()
    return found[0].movedim(1, 0).flatten(1)


@pytest.fixture
def inputs(data) -> Tensor:
    """The samples that are looked at: 256 from all over the split."""
    return data.take("train", np.linspace(0, data.count("train") - 1, 256).astype(np.int64)).inputs["x"]


def test_layers_have_the_moments_of_the_channels_that_stayed(teacher, data, context, inputs):
    thinned = cut_out_thin(teacher, 0.5, 1.0, magnitude)
    before = {name: value.clone() for name, value in teacher.graph.state_dict().items()}
    far = distance(thinned.network, teacher, data)
    recalibrate(thinned.network, teacher, thinned.kept, replace(context(), dataset=data))
    assert distance(thinned.network, teacher, data) < 0.9 * far
    for layer in ("stem", "two.conv2", "fc1", "fc2"):
        found, wanted = (outputs_of(network, layer, inputs) for network in (thinned.network, teacher))
        wanted = wanted[thinned.kept.get(f"{layer}.weight", slice(None))]
        torch.testing.assert_close(found.mean(1), wanted.mean(1), rtol=1e-3, atol=1e-3)
        # A channel may be enlarged to five times its size at most.
        same = (found.std(1) - wanted.std(1)).abs() < 1e-3 * wanted.std(1) + 1e-4
        assert same.float().mean() > 0.7
    assert all(torch.equal(value, teacher.graph.state_dict()[name]) for name, value in before.items())


def test_the_channels_that_stayed_are_those_of_the_weights(teacher):
    thinned = cut_out_thin(teacher, 0.5, 1.0, magnitude)
    assert "fc2.weight" not in thinned.kept
    for path in ("stem.bias", "fc1.bias"):
        kept = thinned.kept[path]
        assert torch.equal(thinned.network.graph.get_parameter(path), teacher.graph.get_parameter(path)[kept])


def test_a_student_that_would_come_no_nearer_stays_as_it_is(teacher, data, context, told):
    same = replace(teacher, graph=copy_graph(teacher.graph))
    recalibrate(same, teacher, {}, replace(context(), dataset=data))
    assert distance(same, teacher, data) == 0
    assert not [each for each in told if isinstance(each, LogMessage)]


def test_samples_are_taken_from_all_over_a_sorted_file(teacher, file, tmp_path, context):
    arrays = dict(np.load(file))
    # The first ones are black.
    x, y = (np.concatenate([np.zeros_like(arrays[name][[0] * 400]), *[arrays[name]] * 8]) for name in ("x", "y"))
    np.savez(tmp_path / "sorted.npz", **arrays | {"x": x, "y": y})
    data = open_dataset([tmp_path / "sorted.npz"], IMAGES, teacher.inputs)
    split = data.splits["train"]
    # As they come where a validation split is given, and none is drawn from them.
    data = replace(data, splits={**data.splits, "train": replace(split, rows=np.sort(split.rows))})
    thinned = cut_out_thin(teacher, 0.5, 1.0, magnitude)
    far = distance(thinned.network, teacher, data)
    recalibrate(thinned.network, teacher, thinned.kept, replace(context(), dataset=data))
    assert distance(thinned.network, teacher, data) < 0.9 * far


@pytest.mark.parametrize("count", [1, 8])
def test_a_few_samples_change_nothing(teacher, data, context, told, count):
    split = data.splits["train"]
    few = replace(data, splits={**data.splits, "train": replace(split, rows=split.rows[:count])})
    thinned = cut_out_thin(teacher, 0.5, 1.0, magnitude)
    before = {name: value.clone() for name, value in thinned.network.graph.state_dict().items()}
    recalibrate(thinned.network, teacher, thinned.kept, replace(context(), dataset=few))
    assert not told
    assert all(torch.equal(value, before[name]) for name, value in thinned.network.graph.state_dict().items())
