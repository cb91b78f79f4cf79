"""A student that was cut out of its teacher, brought back to the scale of its teacher's values before it learns."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, fx, nn

from core.compression.context import Context
from core.compression.distill.pairing import shapes_of
from core.compression.train.feeding import fixed_batch
from core.compression.train.trainer import training_split
from core.compression.yardstick import Inputs
from core.data.access import RandomAccess
from core.network.network import Network

# Samples that are looked at, and what the largest value inside may take of them, in bytes. Fewer say little of means.
SAMPLES, FEWEST = 256, 16
LARGEST_BYTES = 256 * 2**20
# A channel is enlarged or made smaller by this at most: one that is nearly constant would become noise.
MOST = 5.0
# Of layers whose outputs have the channels second, and last.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def recalibrate(student: Network, teacher: Network, kept: Mapping[str, Tensor], context: Context) -> None:
    """Give the outputs of the student's layers the mean and deviation that they have in the teacher, in place.

    `kept` has by weight which of the teacher's output channels the student's are; what it does not name kept all. What
    is cut leaves sums with fewer terms, and batch norms that would follow are often folded into the layers. Layers in
    order, each on what those before it give by then; encoded, shared and bare ones (no bias) stay. If the answers came
    no nearer to the teacher's, all is as it was.
    """
    layers = _eligible(student, teacher)
    batch = _one_batch(teacher, context)
    if not layers or batch is None:
        return
    watcher = _Watcher(teacher, layers)
    said = watcher.answer(batch)
    every = slice(None)
    wanted = {
        layer: (mean[kept.get(f"{layer}.weight", every)], deviation[kept.get(f"{layer}.weight", every)])
        for layer, (mean, deviation) in watcher.found.items()
    }
    before = {name: parameter.data for name, parameter in student.graph.named_parameters()}
    distance = float((_Watcher(student, frozenset()).answer(batch) - said).square().mean())
    with torch.no_grad():
        _Matcher(student, wanted).run(*batch)
    after = float((_Watcher(student, frozenset()).answer(batch) - said).square().mean())
    if after < distance:
        context.log(
            f"The student's layers have the teacher's means and deviations: error {distance:.3g} → {after:.3g}."
        )
        return
    for name, parameter in student.graph.named_parameters():
        parameter.data = before[name]


@final
class _Watcher(fx.Interpreter):
    """Mean and deviation of each output channel of some layers."""

    def __init__(self, network: Network, layers: frozenset[str]) -> None:
        super().__init__(network.graph)
        self._layers = layers
        # By layer, both (channels,).
        self.found: dict[str, tuple[Tensor, Tensor]] = {}

    def answer(self, batch: Inputs) -> Tensor:
        """The first output, by which `found` is filled."""
        with torch.no_grad():
            given = self.run(*batch)
        first: Tensor = given if isinstance(given, Tensor) else given[0]
        return first

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_module(target, args, kwargs)
        if target in self._layers:
            self.found[target] = _moments(self.fetch_attr(target), value)
        return value


@final
class _Matcher(fx.Interpreter):
    """Changes weight and bias of each layer as soon as its output is known, and goes on with the output it has then."""

    def __init__(self, network: Network, wanted: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__(network.graph)
        self._wanted = wanted

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_module(target, args, kwargs)
        if target not in self._wanted:
            return value
        layer = self.fetch_attr(target)
        mean, deviation = _moments(layer, value)
        wanted_mean, wanted_deviation = self._wanted[target]
        factor = (wanted_deviation / deviation).nan_to_num(1.0).clamp(1 / MOST, MOST)
        # In the place of the old ones, which may lie in the teacher's memory.
        layer.weight.data = layer.weight * factor.reshape(-1, *[1] * (layer.weight.dim() - 1))
        layer.bias.data = wanted_mean - (mean - layer.bias) * factor
        return super().call_module(target, args, kwargs)


def _moments(layer: nn.Module, value: Tensor) -> tuple[Tensor, Tensor]:
    channels = (value.movedim(1, 0) if isinstance(layer, _CONVOLUTIONS) else value.movedim(-1, 0)).flatten(1)
    return channels.mean(1), channels.std(1)


def _eligible(student: Network, teacher: Network) -> frozenset[str]:
    """Layers with a bias that both networks call once, whose parameters nothing else uses or encodes."""
    calls = [
        Counter(str(node.target) for node in network.graph.graph.nodes if node.op == "call_module")
        for network in (student, teacher)
    ]
    owners = Counter(id(each) for _, each in student.graph.named_parameters(remove_duplicate=False))
    encoded = student.encodings.keys() | teacher.encodings.keys()
    found = set()
    for path, layer in student.graph.named_modules():
        once = all(called[path] == 1 for called in calls)
        if not once or not isinstance(layer, (*_CONVOLUTIONS, nn.Linear)) or layer.bias is None:
            continue
        alone = owners[id(layer.weight)] == owners[id(layer.bias)] == 1
        if alone and not encoded & {f"{path}.weight", f"{path}.bias"}:
            found.add(path)
    return frozenset(found)


def _one_batch(teacher: Network, context: Context) -> Inputs | None:
    """Samples from all over those to learn from, as many as memory holds the values of; None where they are few.

    Files are often sorted by label, so that the first samples would speak for one class.
    """
    dataset = context.needed_dataset()
    access = RandomAccess(dataset, training_split(dataset), kept_bytes=0)
    largest = max((torch.Size(shape).numel() for shape in shapes_of(teacher).values()), default=1)
    count = fixed_batch(teacher) or min(SAMPLES, LARGEST_BYTES // (4 * largest), len(access))
    if not FEWEST <= count <= len(access):
        return None
    found = access.take(np.linspace(0, len(access) - 1, count).astype(np.int64))
    return tuple(found.inputs[tensor.name] for tensor in teacher.inputs)
