"""A network made trainable: encoded parameters give way to weights that learn on their grid, and come back encoded."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from core.compression.train.grids import BoundBias, LearningGrid, fix_grids, learn_grids
from core.compression.train.objective import Answers
from core.errors import ModelpressError
from core.network.encodings import AffineInteger, Encoding
from core.network.encodings.affine_integer import IntegerWeight
from core.network.encodings.masked import MaskedWeight
from core.network.encodings.trainable import TrainableWeight
from core.network.network import Network


@final
class TrainableNetwork(nn.Module):
    """Its parameters are all that is trained; a weight that is tied in the network is one parameter here."""

    def __init__(
        self, network: Network, watched: tuple[str, ...] = (), latent: Mapping[str, Tensor] | None = None
    ) -> None:
        """A copy to train; `watched` names nodes of the graph. Raises `internal` for a name that is no node's.

        `latent` has, by path, where the latent weights beneath encoded ones start; left out, on their grid.
        """
        super().__init__()
        self._network = network
        self._watched = watched
        plain = copy.deepcopy(network.graph).eval()
        for parameter in plain.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        learn_grids(plain)
        self._learnt = _learn_encoded(plain, network, latent or {})
        self.graph = _watch(plain, watched)
        self.weights = nn.ModuleList(self._learnt.values())
        self._norms = [layer for layer in plain.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        # In a tuple, so that its parameters are not counted a second time.
        self._plain = (plain,)

    def forward(self, *inputs: Tensor) -> Answers:
        """Outputs and watched values for inputs (n, …) in the network's order."""
        if self._learnt:
            weights = {name: weight() for name, weight in self._learnt.items()}
            outputs, values = functional_call(self.graph, weights, inputs)
        else:
            outputs, values = self.graph(*inputs)
        return Answers(outputs, dict(zip(self._watched, values, strict=True)))

    def follow_batches(self, *, follow: bool) -> None:
        """Let batch norms follow the statistics of the batches, or keep theirs; nothing else has two modes."""
        for norm in self._norms:
            norm.train(follow)

    @property
    def has_batch_norms(self) -> bool:
        """Whether there is a batch norm that was not folded into its layer."""
        return bool(self._norms)

    def unmount(self) -> Network:
        """The network as it is now, encoded anew; its outputs equal those of `forward` in eval mode bit for bit."""
        self.zero_grad(set_to_none=True)
        graph = copy.deepcopy(self._plain[0]).cpu().eval()
        fix_grids(graph)
        parameters = dict(graph.named_parameters(remove_duplicate=False))
        encodings = dict(self._network.encodings)
        for path, weight in self._learnt.items():
            encoding = weight.encode()
            parameters[path].data = encoding.decode()
            for name in _names_of(parameters[path], graph) & encodings.keys():
                encodings[name] = encoding
        given = dict(self._network.graph.named_parameters(remove_duplicate=False))
        for name, parameter in parameters.items():
            parameter.requires_grad_(given[name].requires_grad)
        return replace(self._network, graph=graph, encodings=encodings)


def _learn_encoded(graph: fx.GraphModule, network: Network, latent: Mapping[str, Tensor]) -> dict[str, TrainableWeight]:
    """By path, what is trained in place of each encoded parameter; of a tied one under one of its paths."""
    learnt: dict[str, TrainableWeight] = {}
    seen: set[int] = set()
    parameters = dict(graph.named_parameters(remove_duplicate=False))
    # Weights come first: the scale of an integer bias is bound to that of its weight.
    for path, encoding in sorted(network.encodings.items(), key=lambda each: _is_integer_bias(each[1])):
        parameter = parameters[path]
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        bound = _bind(graph, path, parameter, encoding=encoding, learnt=learnt)
        learnt[path] = bound or encoding.trainable(latent.get(path, parameter.detach()))
        parameter.requires_grad = False
    return learnt


def _is_integer_bias(encoding: Encoding) -> bool:
    return isinstance(encoding, AffineInteger) and encoding.grid.storage is torch.int32


def _bind(
    graph: fx.GraphModule,
    path: str,
    bias: Tensor,
    *,
    encoding: Encoding,
    learnt: Mapping[str, TrainableWeight],
) -> BoundBias | None:
    """An integer bias bound to the weight and the input of its layer; None for what is none."""
    if not (isinstance(encoding, AffineInteger) and _is_integer_bias(encoding)):
        return None
    layer = path.rpartition(".")[0]
    weight: nn.Module | None = learnt.get(f"{layer}.weight")
    if isinstance(weight, MaskedWeight):
        weight = weight.inner
    call = next(node for node in graph.graph.nodes if node.op == "call_module" and node.target == layer)
    source = call.all_input_nodes[0]
    grid = graph.get_submodule(str(source.target)) if source.op == "call_module" else None
    if not isinstance(weight, IntegerWeight) or not isinstance(grid, LearningGrid):
        text = f"The bias of {layer} is an integer, but its weight or its input is not."
        raise ModelpressError("internal", text, layer=layer)
    return BoundBias(bias, encoding, weight, grid)


def _names_of(parameter: nn.Parameter, graph: fx.GraphModule) -> set[str]:
    return {name for name, each in graph.named_parameters(remove_duplicate=False) if each is parameter}


def _watch(graph: fx.GraphModule, watched: tuple[str, ...]) -> fx.GraphModule:
    """A graph over the same layers that gives its outputs as a tuple, and beside it the watched values."""
    module = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    nodes = {node.name: node for node in module.graph.nodes}
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    if missing := [name for name in watched if name not in nodes]:
        raise ModelpressError("internal", f"The graph has no node {missing[0]} to watch.", node=missing[0])
    given = output.args[0]
    outputs = tuple(given) if isinstance(given, list | tuple) else (given,)
    output.args = ((outputs, tuple(nodes[name] for name in watched)),)
    module.recompile()
    return module
