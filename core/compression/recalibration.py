"""What was cut out of a network, brought back to the scale of that network's values."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from core.compression.yardstick import Inputs
from core.network.network import Network

# A channel is enlarged or made smaller by this at most: one that is nearly constant would become noise.
MOST = 5.0
# Of layers whose outputs have the channels second, and last.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def match_moments(changed: Network, original: Network, kept: Mapping[str, Tensor], batch: Inputs) -> None:
    """Give the outputs of the changed network's layers the mean and deviation that they have in the original, in place.

    `kept` has by weight which of the original's output channels the changed one's are, (channels,); what it does not
    name kept all. What is cut leaves sums with fewer terms, and batch norms that would follow are often folded into
    the layers. Layers in order, each on what those before it give by then; encoded, shared and bare ones (no bias)
    stay. Parameters are replaced, not written into.
    """
    layers = _eligible(changed, original)
    watcher = _Watcher(original, layers)
    every = slice(None)
    with torch.no_grad():
        watcher.run(*batch)
        wanted = {
            layer: (mean[kept.get(f"{layer}.weight", every)], deviation[kept.get(f"{layer}.weight", every)])
            for layer, (mean, deviation) in watcher.found.items()
        }
        _Matcher(changed, wanted).run(*batch)


def estimate_norms(network: Network, batches: Iterable[Inputs]) -> bool:
    """Give batch norms the mean and variance that their inputs have now, in place; False where there are none.

    Statistics are replaced, not written into; each norm sees what those before it give with the batch's own.
    """
    norms = [each for each in network.graph.modules() if isinstance(each, BatchNorm) and each.running_mean is not None]
    if not norms:
        return False
    given = [norm.momentum for norm in norms]
    for norm in norms:
        for name, statistic in list(norm.named_buffers()):
            setattr(norm, name, statistic.clone())
        norm.reset_running_stats()
        # None: the mean over all batches.
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            for batch in batches:
                network.graph(*batch)
    finally:
        for norm, momentum in zip(norms, given, strict=True):
            norm.momentum = momentum
            norm.eval()
    return True


@final
class _Watcher(fx.Interpreter):
    """Mean and deviation of each output channel of some layers."""

    def __init__(self, network: Network, layers: frozenset[str]) -> None:
        super().__init__(network.graph)
        self._layers = layers
        # By layer, both (channels,).
        self.found: dict[str, tuple[Tensor, Tensor]] = {}

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


def _eligible(changed: Network, original: Network) -> frozenset[str]:
    """Layers with a bias that both networks call once, whose parameters nothing else uses or encodes."""
    calls = [
        Counter(str(node.target) for node in network.graph.graph.nodes if node.op == "call_module")
        for network in (changed, original)
    ]
    owners = Counter(id(each) for _, each in changed.graph.named_parameters(remove_duplicate=False))
    encoded = changed.encodings.keys() | original.encodings.keys()
    found = set()
    for path, layer in changed.graph.named_modules():
        once = all(called[path] == 1 for called in calls)
        if not once or not isinstance(layer, (*_CONVOLUTIONS, nn.Linear)) or layer.bias is None:
            continue
        alone = owners[id(layer.weight)] == owners[id(layer.bias)] == 1
        if alone and not encoded & {f"{path}.weight", f"{path}.bias"}:
            found.add(path)
    return frozenset(found)
