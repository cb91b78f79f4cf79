"""Names for the weights of an ONNX graph: the user's own where the file still has them, else the kind and a number."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx
from torch import nn

from core.network.flat import is_path

# Operator -> (kind, input position -> name of the weight inside its layer).
WEIGHT_SLOTS: Mapping[str, tuple[str, Mapping[int, str]]] = {
    "Conv": ("conv", {1: "weight", 2: "bias"}),
    "ConvTranspose": ("conv_transpose", {1: "weight", 2: "bias"}),
    "Gemm": ("linear", {1: "weight", 2: "bias"}),
    "MatMul": ("linear", {1: "weight"}),
    "BatchNormalization": ("batch_norm", {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"}),
    "LayerNormalization": ("layer_norm", {1: "weight", 2: "bias"}),
    "InstanceNormalization": ("instance_norm", {1: "weight", 2: "bias"}),
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
        wanted = ".".join(f"{step}_" if hasattr(nn.Module, step) else step for step in wanted.split("."))
        path, number = wanted, 1
        while any(_clash(path, other) for other in self.taken):
            number += 1
            path = f"{wanted}_{number}"
        self.taken.add(path)
        self.paths[name] = path

    def count(self, kind: str) -> str:
        """The next name of a kind, such as `conv_2`."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return f"{kind}_{self.counters[kind]}"


def name_weights(nodes: Iterable[onnx.NodeProto], sizes: Mapping[str, int], stored: set[str]) -> WeightNames:
    """Place every constant in `sizes` (elements of each); `stored` are those that the file stores as weights."""
    names = WeightNames()
    nodes = list(nodes)
    for node in nodes:
        if node.op_type in WEIGHT_SLOTS:
            _name_layer(node, nodes, sizes, names)
    for name, size in sizes.items():
        if name in names.paths:
            continue
        anonymous = not is_path(name) or _ANONYMOUS.fullmatch(name) is not None
        names.assign(name, names.count("constant") if anonymous else name)
        if name in stored and size > 1 and not anonymous:
            names.trained.add(name)
    return names


def _name_layer(
    node: onnx.NodeProto, nodes: list[onnx.NodeProto], sizes: Mapping[str, int], names: WeightNames
) -> None:
    kind, slots = WEIGHT_SLOTS[node.op_type]
    weights = {
        node.input[position]: leaf
        for position, leaf in slots.items()
        if position < len(node.input) and node.input[position] in sizes
    }
    if all(name in names.paths for name in weights):
        return
    hints = [*weights, *(_added(node, nodes, sizes) if node.op_type == "MatMul" else ())]
    layer = next(filter(None, map(layer_of, hints)), None) or _scope(node) or names.count(kind)
    for name, leaf in weights.items():
        if name not in names.paths:
            names.assign(name, name if layer_of(name) and "." in name else f"{layer}.{leaf}")
        if not leaf.startswith("running_"):
            names.trained.add(name)


def layer_of(weight: str) -> str | None:
    """The layer in the name of a weight: `conv1` of `conv1.weight` or `conv1_W`; None where it is not one."""
    found = _LEAF.fullmatch(weight) if is_path(weight) else None
    return found.group(1) if found else None


def _added(node: onnx.NodeProto, nodes: list[onnx.NodeProto], sizes: Mapping[str, int]) -> list[str]:
    """The constants that are added to a product: exporters write a linear layer as MatMul and Add."""
    users = [user for user in nodes if node.output[0] in user.input]
    if len(users) != 1 or users[0].op_type != "Add":
        return []
    return [name for name in users[0].input if name in sizes]


def _scope(node: onnx.NodeProto) -> str | None:
    """The module path in an older exporter's node name: `layer1.0.conv1` of `/layer1/layer1.0/conv1/Conv`."""
    steps = node.name.strip("/").split("/")[:-1]
    path = ""
    for step in steps:
        path = step if step.startswith(f"{path}.") or not path else f"{path}.{step}"
    return path if path and is_path(path) else None


def _clash(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
