"""Which weights of a network can be encoded, and a copy of the network in which they are."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import nn

from core.errors import ModelpressError
from core.network.encodings import Dense, Encoding, put_on
from core.network.export_graph import is_shared
from core.network.network import Network
from core.network.share import copy_graph
from core.specs.composition import EncodingKind

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTY = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear, nn.Embedding)


@final
@dataclass(frozen=True)
class Candidate:
    """One weight that can be encoded: the layer at `path`, and which of its parameters."""

    path: str
    parameter: str
    layer: nn.Module

    @property
    def name(self) -> str:
        """The path of the parameter, such as `conv1.weight`."""
        return f"{self.path}.{self.parameter}"

    @property
    def weight(self) -> torch.Tensor:
        """The parameter, detached."""
        return self.layer.get_parameter(self.parameter).detach()


def find_candidates(
    network: Network, keep_float: Collection[str], *, takes: frozenset[EncodingKind]
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """The weights to encode, in graph order, and the layers left out that could have been encoded.

    Left out is who shares a weight, is called more than once, or is encoded in a kind outside of `takes`. Raises
    `unsupported_layer` where nothing is left, and `non_finite` for weights that are no numbers.
    """
    chosen: list[Candidate] = []
    left_out: list[str] = []
    calls = Counter(str(node.target) for node in network.graph.graph.nodes if node.op == "call_module")
    for path, count in calls.items():
        layer = network.graph.get_submodule(path)
        if not isinstance(layer, _WEIGHTY) or path in keep_float:
            continue
        encoding = network.encodings.get(f"{path}.weight")
        taken = encoding is None or set(encoding.kinds) <= takes
        if count == 1 and taken and not is_shared(network.graph, layer.weight):
            chosen.append(Candidate(path, "weight", layer))
        else:
            left_out.append(path)
    if not chosen:
        raise ModelpressError(
            "unsupported_layer", "No convolution, linear layer or table of embeddings is left to quantize."
        )
    for candidate in chosen:
        if not bool(torch.isfinite(candidate.weight).all()):
            text = f"The weight of {candidate.path} holds NaN or infinity, which no grid has."
            raise ModelpressError("non_finite", text, layer=candidate.path)
    return tuple(chosen), tuple(sorted(left_out))


def put_encodings(network: Network, encodings: Mapping[str, Encoding]) -> Network:
    """A copy in which these parameters (by path) are encoded over what they were encoded in; others stay as they are.

    A mask stays over what is put under it. Raises ValueError where the table of compositions refuses it.
    """
    graph = copy_graph(network.graph)
    made = replace(network, graph=graph, encodings=dict(network.encodings), metadata=dict(network.metadata))
    for name, encoding in encodings.items():
        encode_parameter(made, name, encoding)
    return made


def encode_parameter(network: Network, name: str, encoding: Encoding) -> None:
    """Encode one parameter of a network whose graph is a copy of its own."""
    parameter = network.graph.get_parameter(name)
    put = put_on(network.encodings.get(name, Dense(parameter)), encoding)
    parameter.data = put.decode()
    network.encodings[name] = put


def weight_axis(layer: nn.Module) -> int:
    """The axis of a layer's weight that its output channels lie along."""
    return 1 if isinstance(layer, TRANSPOSED) else 0
