"""The steps of an ONNX graph; the graphs inside of If nodes become steps with names of their own."""

from collections.abc import Iterable, Iterator

import onnx

from core.network.onnx_steps import Array, Step, to_array

_BRANCHES = ("then_branch", "else_branch")


def read_steps(graph: onnx.GraphProto, opset: int, constants: dict[str, Array]) -> list[Step]:
    """The steps of a graph in order; what its branches store is added to `constants`."""
    return [_read(node, opset, constants, node.name or f"if_{index}") for index, node in enumerate(graph.node)]


def all_nodes(steps: Iterable[Step]) -> Iterator[onnx.NodeProto]:
    """The nodes of steps, and of their branches."""
    for step in steps:
        yield step.node
        for branch in step.branches:
            yield from all_nodes(branch)


def _read(node: onnx.NodeProto, opset: int, constants: dict[str, Array], scope: str) -> Step:
    step = Step.of(node, opset)
    if node.op_type != "If" or node.domain:
        return step
    graphs = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
    if set(graphs) != set(_BRANCHES) or any(graphs[name].input for name in _BRANCHES):
        step.call.refuse("it has not two branches without inputs")
    branches = tuple(tuple(_read_branch(step, graphs[name], constants, f"{scope}/{name}")) for name in _BRANCHES)
    outside = dict.fromkeys(name for branch in branches for name in _captured(branch))
    return Step(node, step.call, (*step.inputs, *outside), branches)


def _read_branch(step: Step, graph: onnx.GraphProto, constants: dict[str, Array], scope: str) -> Iterator[Step]:
    """The steps of a branch: its values get the scope in their names, its results the names of the If's outputs."""
    names = {name: f"{scope}/{name}" for node in graph.node for name in node.output if name}
    for tensor in graph.initializer:
        names[tensor.name] = f"{scope}/{tensor.name}"
        constants[names[tensor.name]] = to_array(tensor)
    made = {name for node in graph.node for name in node.output}
    results = []
    for inner, outer in zip(graph.output, step.node.output, strict=False):
        if inner.name in made and names[inner.name] not in step.node.output:
            names[inner.name] = outer
        else:
            results.append(onnx.helper.make_node("Identity", [names.get(inner.name, inner.name)], [outer]))
    for index, node in enumerate(graph.node):
        renamed = onnx.NodeProto()
        renamed.CopyFrom(node)
        renamed.input[:] = [names.get(name, name) for name in node.input]
        renamed.output[:] = [names.get(name, name) for name in node.output]
        for attribute in renamed.attribute:
            if attribute.HasField("g"):
                _rename_outside(attribute.g, names)
        yield _read(renamed, step.call.opset, constants, f"{scope}/{node.name or index}")
    yield from (Step.of(node, step.call.opset) for node in results)


def _rename_outside(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give a graph inside of a branch the new names of what it reads from the branch."""
    own = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    outer = {name: new for name, new in names.items() if name not in own}
    for node in graph.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_outside(attribute.g, outer)
    for output in graph.output:
        output.name = outer.get(output.name, output.name)


def _captured(branch: Iterable[Step]) -> Iterator[str]:
    made: set[str] = set()
    for step in branch:
        yield from (name for name in step.inputs if name and name not in made)
        made.update(step.node.output)
