"""The `.pt2` reader: the graph's JSON and the raw weights become a flat graph; nothing is unpickled or evaluated."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import JsonValue, ValidationError
from torch import fx, nn
from torch.fx.node import Argument

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.archive import Archive
from core.network.aten_operators import resolve
from core.network.flat import FlatProgram, dominant_dtype, is_assertion, is_path, make_example, place, safe_path
from core.network.foreign import FROM_OTHER_TORCH
from core.network.pt2_arguments import decode, lookup, single, symbol, widened
from core.network.pt2_schema import ExportedProgram, Node, TensorMeta, Union
from core.network.pt2_weights import STORED_DTYPES, plain_size, read_weights

SCHEMA_MAJOR = 8


def read_pt2(path: Path) -> FlatProgram:
    """The flat program of a `.pt2` archive of torch 2.13.

    Raises `unsafe_file`, `corrupt_file`, `unsupported_version`, `unsupported_operator` or `unsupported_graph`.
    """
    with Archive(path) as archive:
        stated = [archive.read(name)[:20].strip() for name in ("archive_format", "archive_version", "byteorder")]
        if stated != [b"pt2", b"0", b"little"]:
            sentence = "The .pt2 archive is of another version or byte order than torch 2.13 writes."
            raise ModelpressError("unsupported_version", sentence, hint=FROM_OTHER_TORCH)
        models = sorted(name for name in archive.names if name.startswith("models/"))
        if len(models) != 1:
            raise ModelpressError("unsupported_graph", f"The .pt2 archive holds {len(models)} programs instead of one.")
        program = _read_program(archive, models[0])
        weights = read_weights(archive, models[0].removeprefix("models/").removesuffix(".json"))
    builder = _Builder(program, {name: weight.tensor for name, weight in weights.items()})
    builder.add_inputs()
    for node in program.graph_module.graph.nodes:
        builder.add(node)
    outputs = builder.add_outputs()
    return FlatProgram(
        graph=fx.GraphModule(builder.root, builder.graph),
        inputs=tuple(builder.inputs),
        outputs=outputs,
        example=tuple(builder.example),
        dtype=dominant_dtype((str(weight.dtype).removeprefix("torch."), weight.bytes) for weight in weights.values()),
        producer=f"torch {program.torch_version}"[:100],
    )


def _read_program(archive: Archive, name: str) -> ExportedProgram:
    try:
        program = ExportedProgram.model_validate(archive.read_json(name))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])[:200]
        sentence = f"{name} is not as torch 2.13 writes it: {where}: {first['msg']}"
        raise ModelpressError("corrupt_file", sentence) from error
    if program.schema_version.major != SCHEMA_MAJOR:
        raise ModelpressError(
            "unsupported_version",
            f"The program was written by torch {program.torch_version[:50]}, in schema {program.schema_version.major} "
            f"instead of the {SCHEMA_MAJOR} of torch 2.13.",
            hint=FROM_OTHER_TORCH,
        )
    return program


@dataclass
class _Builder:
    program: ExportedProgram
    weights: dict[str, torch.Tensor]
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    values: dict[str, Argument] = field(default_factory=dict)
    inputs: list[TensorDescription] = field(default_factory=list)
    example: list[torch.Tensor] = field(default_factory=list)

    def add_inputs(self) -> None:
        """Placeholders for the user's inputs, `get_attr` nodes for weights."""
        named = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
        for spec in self.program.graph_module.signature.input_specs:
            kind, body = single(spec)
            argument = body.get("arg") if isinstance(body, dict) else None
            if kind == "user_input" and isinstance(argument, dict) and "as_tensor" in argument:
                self.add_input(_name(argument["as_tensor"]))
            elif kind in named and isinstance(body, dict):
                self.add_weight(_name(argument), str(body.get(named[kind])))
            elif kind != "constant_input":
                raise ModelpressError("unsupported_graph", f"An input of kind {kind[:50]} is not read.")

    def add_input(self, name: str) -> None:
        """One input of the user; a free size gets the number that it was exported with."""
        meta = self.program.graph_module.graph.tensor_values.get(name)
        dtype = None if meta is None else STORED_DTYPES.get(meta.dtype)
        if meta is None or dtype is None:
            raise ModelpressError("unsupported_graph", f"Input {name} is of a type that is not read.", node=name)
        shape = tuple(symbol(size) if "as_expr" in size else plain_size(size) for size in meta.sizes)
        self.inputs.append(TensorDescription(name=name, dtype=str(dtype).removeprefix("torch."), shape=shape))
        self.example.append(make_example(name, self.example_sizes(meta), widened(dtype)))
        self.values[name] = self.graph.placeholder(name if name.isidentifier() else "x")

    def example_sizes(self, meta: TensorMeta) -> list[int]:
        """Numbers for the sizes of an input: the hints of the export, at least 2, within the stated ranges."""
        return [self.example_size(size) if "as_expr" in size else plain_size(size) for size in meta.sizes]

    def example_size(self, size: Union) -> int:
        """The number for one free size."""
        body = size["as_expr"]
        hint = body.get("hint") if isinstance(body, dict) else None
        number = hint.get("as_int") if isinstance(hint, dict) else None
        limits = self.program.range_constraints.get(symbol(size))
        most = limits.max_val if limits and limits.max_val is not None else 1 << 16
        return min(max(number if isinstance(number, int) else 2, 2), max(most, 1))

    def add_weight(self, name: str, path: str) -> None:
        """One weight, at the path where the user's module has it."""
        if path not in self.weights:
            raise ModelpressError("corrupt_file", f"The archive has no bytes for the weight {path[:200]}.")
        tensor = self.weights[path]
        path = safe_path(path) if is_path(path) else f"constant_{len(self.values)}"
        place(self.root, path, tensor)
        self.values[name] = self.graph.get_attr(path)

    def add(self, node: Node) -> None:
        """One call, its results under the names that later calls use."""
        label = (node.name or node.target)[:200]
        target = resolve(node.target)
        if target is None:
            raise ModelpressError(
                "unsupported_operator",
                f"Node {label} calls {node.target[:200]}, which is not in the list of operators that are read.",
                node=label,
            )
        if is_assertion(target):
            return
        call = self.graph.call_function(target, *self.arguments(node, target))
        kinds = [single(output) for output in node.outputs]
        if len(kinds) == 1 and kinds[0][0] == "as_tensors" and isinstance(kinds[0][1], list):
            self.unpack(call, kinds[0][1])
        elif len(kinds) == 1:
            self.values[_name(kinds[0][1])] = call
        else:
            self.unpack(call, [None if kind == "as_none" else body for kind, body in kinds])

    def unpack(self, call: fx.Node, results: list[JsonValue]) -> None:
        """Give each result of a call that makes several its name."""
        for index, body in enumerate(results):
            if body is not None:
                self.values[_name(body)] = self.graph.call_function(operator.getitem, (call, index))

    def arguments(self, node: Node, target: Callable[..., object]) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
        """Positional arguments as far as the schema's order goes, the others by name."""
        decoded = [(argument.name, decode(argument.arg, self.values)) for argument in node.inputs]
        if not isinstance(target, torch._ops.OpOverload):
            return tuple(value for _, value in decoded), {}
        expected = [argument.name for argument in target._schema.arguments if not argument.kwarg_only]
        # Torch makes Python of a graph, and names go into it as they are.
        if strange := [name for name, _ in decoded if name not in {each.name for each in target._schema.arguments}]:
            raise ModelpressError("corrupt_file", f"{node.target} has no argument {strange[0][:100]!r}.")
        args: list[Argument] = []
        kwargs: dict[str, Argument] = {}
        for name, value in decoded:
            if not kwargs and len(args) < len(expected) and expected[len(args)] == name:
                args.append(value)
            else:
                kwargs[name] = value
        return tuple(args), kwargs

    def add_outputs(self) -> tuple[str, ...]:
        """The output node; a program that changes its own weights is refused."""
        results: list[Argument] = []
        for spec in self.program.graph_module.signature.output_specs:
            kind, body = single(spec)
            argument = body.get("arg") if isinstance(body, dict) else None
            if kind != "user_output" or not isinstance(argument, dict) or "as_tensor" not in argument:
                raise ModelpressError(
                    "unsupported_graph",
                    f"The program has an output of kind {kind[:50]}; only tensors are read.",
                    hint="Call `model.eval()` before exporting, and return tensors only.",
                )
            results.append(lookup(argument["as_tensor"], self.values))
        self.graph.output(tuple(results))
        return tuple("output" if len(results) == 1 else f"output_{index}" for index in range(len(results)))


def _name(body: JsonValue) -> str:
    name = body.get("name", body.get("as_name")) if isinstance(body, dict) else None
    if not isinstance(name, str) or len(name) > 1000:
        raise ModelpressError("corrupt_file", "A name in the graph is not as torch 2.13 writes it.")
    return name
