"""Names for the weights of an ONNX graph: the user's own where the file still has them, else the kind and a number."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from core.network.flat import is_path, safe_path
from core.network.onnx_recurrent import leaves

# Operator -> (kind, input position -> name of the weight inside its layer).
WEIGHT_SLOTS: Mapping[str, tuple[str, Mapping[int, str]]] = {
    "Conv": ("conv", {1: "weight", 2: "bias"}),
    "ConvTranspose": ("conv_transpose", {1: "weight", 2: "bias"}),
    "Gemm": ("linear", {1: "weight", 2: "bias"}),
    "MatMul": ("linear", {1: "weight"}),
    "BatchNormalization": ("batch_norm", {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"}),
    "LayerNormalization": ("layer_norm", {1: "weight", 2: "bias"}),
    "InstanceNormalization": ("instance_norm", {1: "weight", 2: "bias"}),
    "GroupNormalization": ("group_norm", {1: "weight", 2: "bias"}),
    "RMSNormalization": ("rms_norm", {1: "weight"}),
    "LSTM": ("lstm", leaves("LSTM")),
    "GRU": ("gru", leaves("GRU")),
    "RNN": ("rnn", leaves("RNN")),
    "PRelu": ("prelu", {1: "weight"}),
    "Gather": ("embedding", {0: "weight"}),
}
_LEAF = re.compile(r"(.+)[._](weight|bias|W|w|B|b|kernel|gamma|beta|scale|running_mean|running_var|mean|var)")
_ANONYMOUS = re.compile(r"(val|const|constant|onnx|tensor|initializer|t|w)?_*\d*", re.IGNORECASE)


@dataclass
class WeightNames:
    """Where each constant of a graph is placed, and which of them are trained."""

    paths: dict[str, str] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def assign(self, name: str, wanted: str) -> None:
        """Place a constant at a free path, `wanted` or that with a number."""
        wanted = safe_path(wanted)
        path, number = wanted, 1
        while any(_clash(path, other) for other in self.taken):
            number += 1
            path = f"{wanted}_{number}"
        self.taken.add(path)
        self.paths[name] = path

    def free_layer(self, layer: str, leaves: Sequence[str]) -> str:
        """`layer`, or that with a number where another layer has weights of these names there."""
        wanted, number = layer, 1
        while any(f"{layer}.{leaf}" in self.taken for leaf in leaves):
            number += 1
            layer = f"{wanted}_{number}"
        return layer

    def count(self, kind: str) -> str:
        """The next name of a kind, such as `conv_2`."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return f"{kind}_{self.counters[kind]}"


def name_weights(
    nodes: Iterable[onnx.NodeProto], constants: Mapping[str, NDArray[np.generic]], stored: Collection[str]
) -> WeightNames:
    """Place every constant; `stored` are those that the file stores as weights.

    What no layer uses is trained when it has a name and differing values: a position table is, a mask of zeros is not.
    """
    names = WeightNames()
    nodes = list(nodes)
    for node in nodes:
        if node.op_type in WEIGHT_SLOTS:
            _name_layer(node, nodes, constants, names)
    for name, array in constants.items():
        if name in names.paths:
            continue
        anonymous = not is_path(name) or _ANONYMOUS.fullmatch(name) is not None
        names.assign(name, names.count("constant") if anonymous else name)
        if name in stored and not anonymous and array.size > 1 and (array != array.flat[0]).any():
            names.trained.add(name)
    return names


def _name_layer(node: onnx.NodeProto, nodes: list[onnx.NodeProto], known: Collection[str], names: WeightNames) -> None:
    kind, slots = WEIGHT_SLOTS[node.op_type]
    weights = {
        node.input[position]: leaf
        for position, leaf in slots.items()
        if position < len(node.input) and node.input[position] in known
    }
    if all(name in names.paths for name in weights):
        return
    hints = [*weights, *(_added(node, nodes, known) if node.op_type == "MatMul" else ())]
    layer = next(filter(None, map(layer_of, hints)), None) or _scope(node) or names.count(kind)
    layer = names.free_layer(layer, [leaf for name, leaf in weights.items() if name not in names.paths])
    for name, leaf in weights.items():
        if name not in names.paths:
            names.assign(name, name if layer_of(name) and "." in name else f"{layer}.{leaf}")
        if not leaf.startswith("running_"):
            names.trained.add(name)


def layer_of(weight: str) -> str | None:
    """The layer in the name of a weight: `conv1` of `conv1.weight` or `conv1_W`; None where it is not one."""
    found = _LEAF.fullmatch(weight) if is_path(weight) else None
    return found.group(1) if found else None


def _added(node: onnx.NodeProto, nodes: list[onnx.NodeProto], known: Collection[str]) -> list[str]:
    """The constants that are added to a product: exporters write a linear layer as MatMul and Add."""
    users = [user for user in nodes if node.output[0] in user.input]
    if len(users) != 1 or users[0].op_type != "Add":
        return []
    return [name for name in users[0].input if name in known]


def _scope(node: onnx.NodeProto) -> str | None:
    """The module path in an older exporter's node name: `layer1.0.conv1` of `/layer1/layer1.0/conv1/Conv`."""
    steps = node.name.strip("/").split("/")[:-1]
    path = ""
    for step in steps:
        path = step if step.startswith(f"{path}.") or not path else f"{path}.{step}"
    return path if path and is_path(path) else None


def _clash(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
