"""Masks whose kept weights make up for those that go: layers in graph order, each by what it is given by then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, fx

from core.compression.candidates import put_encodings
from core.compression.layer_walk import LayerWalk, Progress, Tick, products_of
from core.compression.matrices import Product, as_matrix, as_weight
from core.compression.prune.mask_choice import masked
from core.compression.prune.optimal_brain import InputMoments, bytes_of_moments
from core.compression.relay import Samples
from core.network.encodings import Dense, Masked
from core.network.export_graph import is_shared
from core.network.network import Network

Choose = Callable[[str, Tensor, float], Tensor]
"""Which numbers of a weight stay, by its name, what each is worth, in its shape, and how far the choice is, up to 1."""


@final
@dataclass(frozen=True)
class MaskedWeight:
    """Which numbers of a weight stay, in its own shape, and what they become; a new bias where it has one to fit."""

    mask: Tensor
    value: Tensor
    bias: Tensor | None = None


def is_fitted(network: Network, name: str) -> bool:
    """Whether a weight can take any value: floats, under a mask or not; of others only some values are stored."""
    encoding = network.encodings.get(name)
    inner = encoding.inner if isinstance(encoding, Masked) else encoding
    return inner is None or isinstance(inner, Dense)


def fit_masks(
    network: Network,
    masked: Mapping[str, MaskedWeight],
    samples: Samples,
    progress: Progress,
    choose: Choose | None = None,
) -> dict[str, MaskedWeight]:
    """`masked`, by the names of weights, with values so that each layer's outputs are nearest to the original's.

    What the original answers there is wanted of each layer on what it is given once those before it are pruned. With
    `choose` masks are chosen anew, too. Encoded weights and layers that are called twice stay as `masked` has them.
    `progress` takes 0 … 1 and is where a cancel is noticed. Raises `missing_data` without a batch, `non_finite`.
    """
    found = dict(masked)
    fitted = {name for name in masked if is_fitted(network, name)}
    nodes = products_of(network.graph, lambda path, _: f"{path}.weight" in fitted)
    walk = LayerWalk(network, nodes, samples, lambda node: _Fit(network, node).bytes)
    for name in masked.keys() - {f"{node.target}.weight" for node in nodes}:
        walk.put(name, masked[name].value)
    for number, stage in enumerate(walk.stages):
        done = number / len(walk.stages)
        text = f"Fitting {', '.join(str(node.target) for node in stage.nodes)}"

        def tick(done: float = done, text: str = text) -> None:
            progress(done, text)

        fits = {node.name: _Fit(network, node) for node in stage.nodes}
        moments = {key: fit.moments() for key, fit in fits.items()}
        walk.collect(stage, moments, tick)
        for key, fit in fits.items():
            new = fit.solve(moments.pop(key), masked[fit.name].mask, choose, tick)
            found[fit.name] = new
            walk.put(fit.name, new.value)
            if new.bias is not None:
                walk.put(_bias_of(fit.name), new.bias)
    return found


def put_weights(network: Network, found: Mapping[str, MaskedWeight]) -> Network:
    """A copy of the network with these weights, by name, under their masks, and with their biases."""
    made = put_encodings(network, {name: masked(each.value, each.mask) for name, each in found.items()})
    for name, each in found.items():
        if each.bias is not None:
            made.graph.get_parameter(_bias_of(name)).data = each.bias
    return made


def _bias_of(name: str) -> str:
    return f"{name.rpartition('.')[0]}.bias"


@final
class _Fit:
    """A layer of the original network, and whether its bias can change with its weight."""

    def __init__(self, network: Network, node: fx.Node) -> None:
        self.name = f"{node.target}.weight"
        self._layer = cast("Product", network.graph.get_submodule(str(node.target)))
        before = network.encodings.get(self.name)
        self._before = before.mask if isinstance(before, Masked) else None
        self._matrix = as_matrix(self._layer, self._layer.weight.detach())
        bias = self._layer.bias
        if bias is not None and (_bias_of(self.name) in network.encodings or is_shared(network.graph, bias)):
            bias = None
        self._bias = None if bias is None else bias.detach().reshape(self._matrix.shape[:2])

    @property
    def bytes(self) -> int:
        """The most that its moments take."""
        return bytes_of_moments(*self._matrix.shape)

    def moments(self) -> InputMoments:
        """What takes the rows of its inputs."""
        groups, _, columns = self._matrix.shape
        return InputMoments(groups, columns, biased=self._bias is not None)

    @torch.no_grad()
    def solve(self, moments: InputMoments, mask: Tensor, choose: Choose | None, tick: Tick) -> MaskedWeight:
        """The best values under the mask, or under a better one."""
        surgery = moments.problem(self._matrix, self._bias)
        kept = as_matrix(self._layer, mask)
        if choose is not None:
            allowed = torch.ones_like(kept) if self._before is None else as_matrix(self._layer, self._before)

            def pick(worth: Tensor, done: float) -> Tensor:
                return as_matrix(self._layer, choose(self.name, as_weight(self._layer, worth), done))

            kept = surgery.choose(allowed, pick, tick)
        values, bias = surgery.fit(kept, tick)
        weight = as_weight(self._layer, values.float())
        new = None if bias is None else bias.float().reshape(-1)
        return MaskedWeight(as_weight(self._layer, kept), weight, new)
