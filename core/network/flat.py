"""The flat graph: what every reader makes and `lift` takes, ATen calls over weights named as the user named them."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.silence import silence

# A value larger than this is refused before anything computes it.
MAX_VALUE_BYTES = 4 * 1024**3

# Calls that only assert; the reader has its own checks.
_ASSERTIONS = ("_assert", "sym_constrain_range")


@dataclass
class FlatProgram:
    """A graph of ATen calls; weights are `get_attr` nodes with dotted paths, the output is always a tuple.

    `example` has one concrete input for each of `inputs`; a free size is a name in `inputs` and a number in `example`.
    """

    graph: fx.GraphModule
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[str, ...]
    example: tuple[torch.Tensor, ...]
    dtype: str = "float32"
    opset: int | None = None
    producer: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def dominant_dtype(weights: Iterable[tuple[str, int]]) -> str:
    """The floating type that most bytes of the weights, given as (type, bytes), are stored in."""
    totals = {"float32": 0}
    for dtype, size in weights:
        if "float" in dtype:
            totals[dtype] = totals.get(dtype, 0) + size
    return max(totals, key=totals.__getitem__)


def make_example(name: str, sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Zeros for an input; raises `graph_too_large` where it would be larger than `MAX_VALUE_BYTES`."""
    if math.prod(sizes) * dtype.itemsize > MAX_VALUE_BYTES:
        raise ModelpressError("graph_too_large", f"Input {name} has {math.prod(sizes)} elements.", node=name)
    return torch.zeros(sizes, dtype=dtype)


def is_path(name: str) -> bool:
    """Whether a name can be used as a dotted path of modules as it is; the parts may be numbers, if there are two."""
    return re.fullmatch(r"[A-Za-z_]\w*|\w+(\.\w+)+", name, re.ASCII) is not None and len(name) <= 255


def safe_path(path: str) -> str:
    """The path with an underscore after each step that would hide an attribute of a module: `graph_` for `graph`."""
    first, *others = path.split(".")
    steps = [f"{first}_" if hasattr(fx.GraphModule, first) else first]
    return ".".join(steps + [f"{step}_" if hasattr(nn.Module, step) else step for step in others])


def ensure(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, made with all its parents where it is missing."""
    module = root
    for name in filter(None, path.split(".")):
        if name not in module._modules:
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    return module


def place(root: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Put a parameter or a buffer at a dotted path below `root`, making the modules in between."""
    parent, _, leaf = path.rpartition(".")
    module = ensure(root, parent)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor)


def find(root: nn.Module, path: str) -> torch.Tensor:
    """The parameter or buffer at a dotted path."""
    parent, _, leaf = path.rpartition(".")
    return cast("torch.Tensor", getattr(root.get_submodule(parent), leaf))


def is_assertion(target: object) -> bool:
    """Whether a call only asserts something."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target._schema.name.removeprefix("aten::").startswith(_ASSERTIONS)


def flatten_exported(program: ExportedProgram, prefix: str = "") -> fx.GraphModule:
    """The graph of an exported program with its weights as `get_attr` nodes, their names without `prefix`."""
    root = nn.Module()
    graph = fx.Graph()
    signature = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    mapped: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = signature[node.name]
            if spec.kind is InputKind.USER_INPUT:
                mapped[node] = graph.placeholder(node.name)
                continue
            stored = str(spec.target)
            path = stored.removeprefix(prefix)
            place(root, path, _weight(program, stored))
            mapped[node] = graph.get_attr(path)
        elif node.op == "output":
            graph.output(tuple(mapped[value] for value in _user_outputs(program, node)))
        elif not is_assertion(node.target):
            mapped[node] = graph.node_copy(node, mapped.__getitem__)
            mapped[node].meta = {}
    return fx.GraphModule(root, graph)


def run_shapes(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Write every node's value into `node.meta["value"]` as a fake tensor; see `trace_shapes`."""
    for node, value in trace_shapes(graph, inputs).items():
        node.meta["value"] = value


def trace_shapes(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> dict[fx.Node, object]:
    """Every node's value as a fake tensor, without computing anything.

    Raises `graph_too_large` where a value is larger than `MAX_VALUE_BYTES`, `unsupported_graph` where shapes
    do not fit.
    """
    interpreter = _ShapeInterpreter(graph)
    with silence(), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        interpreter.run(*(mode.from_tensor(tensor) for tensor in inputs))
    return interpreter.values


class _ShapeInterpreter(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[fx.Node, object] = {}

    def run_node(self, n: fx.Node) -> object:
        try:
            value: object = super().run_node(n)
        except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
            sentence = f"Node {n.name} ({n.target}) does not fit its inputs: {str(error).splitlines()[0]}"
            raise ModelpressError("unsupported_graph", sentence, node=n.name) from error
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            size = tensor.numel() * tensor.element_size() if isinstance(tensor, torch.Tensor) else 0
            if size > MAX_VALUE_BYTES:
                sentence = f"Node {n.name} makes a tensor of {size} bytes."
                raise ModelpressError("graph_too_large", sentence, node=n.name)
        self.values[n] = value
        return value


def _weight(program: ExportedProgram, name: str) -> torch.Tensor:
    return cast("torch.Tensor", program.state_dict.get(name, program.constants.get(name)))


def _user_outputs(program: ExportedProgram, node: fx.Node) -> list[fx.Node]:
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        raise ModelpressError("unsupported_graph", "The network changes its own weights or buffers while it runs.")
    return [value for value in cast("tuple[object, ...]", node.args[0]) if isinstance(value, fx.Node)]
