"""Operators that an ONNX file defines by itself: written out where they are used."""

from collections.abc import Iterable, Mapping

import onnx
import onnx.inliner

from core.errors import ModelpressError

_Key = tuple[str, str, str]


def inline_functions(model: onnx.ModelProto, limit: int) -> onnx.ModelProto:
    """The model without functions; raises where they call themselves or grow beyond `limit`."""
    if not model.functions:
        return model
    functions = {(each.domain, each.name, each.overload): each for each in model.functions}
    if _count(model.graph.node, functions, {}, ()) > limit:
        raise ModelpressError("graph_too_large", f"Written out, the graph has more than {limit} nodes.")
    try:
        inlined = onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        sentence = f"The operators that the file defines cannot be written out: {str(error).splitlines()[0]}"
        raise ModelpressError("unsupported_graph", sentence) from error
    return inlined


def _count(
    nodes: Iterable[onnx.NodeProto],
    functions: Mapping[_Key, onnx.FunctionProto],
    known: dict[_Key, int],
    inside: tuple[_Key, ...],
) -> int:
    """How many nodes there are once every function is written out."""
    total = 0
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        if key in inside:
            raise ModelpressError("unsupported_graph", f"The function {node.op_type} calls itself.", node=node.op_type)
        if key in functions and key not in known:
            known[key] = _count(functions[key].node, functions, known, (*inside, key))
        total += known.get(key, 1)
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                total += _count(graph.node, functions, known, inside)
    return total
