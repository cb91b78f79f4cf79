"""The flat graph in one form: products with a weight become linear layers, calls that do nothing go."""

import operator
from collections.abc import Mapping
from typing import cast

import torch
from torch import fx, nn

from core.errors import ModelpressError
from core.network.computed_weights import store_computed_weights
from core.network.flat import find
from core.network.weight_slices import store_slices

aten = torch.ops.aten
_TRANSPOSES = (aten.permute.default, aten.t.default, aten.transpose.int, aten.numpy_T.default)
_NOTHINGS = (
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
    aten.contiguous.default,
)
_VIEWS = (aten.view.default, aten._unsafe_view.default)
_MATRIX_PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default)
_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)


def normalise(graph: fx.GraphModule) -> None:
    """Rewrite a flat graph in place; needs `node.meta["value"]` and keeps it right.

    Raises `unsupported_graph` where the graph was exported in training mode.
    """
    graph.graph.eliminate_dead_code()
    for node in list(graph.graph.nodes):
        _make_functional(node)
    store_slices(graph)
    turned: dict[str, str] = {}
    for node in list(graph.graph.nodes):
        if node.target in _DROPOUTS:
            _drop_dropout(node)
        elif node.target in _NOTHINGS or _casts_to_itself(node):
            _replace(node, cast("fx.Node", node.args[0]))
        elif node.target in (aten.linear.default, *_MATRIX_PRODUCTS):
            _use_weight(graph, node, turned)
        elif node.target in _FIRST_RESULTS:
            _take_first_result(node)
        elif node.target is aten.addmm.default:
            _split_sum(graph, node, turned)
        elif node.target is aten.add.Tensor:
            _absorb_bias(graph, node)
        elif node.target in _VIEWS:
            # A view may need the copy before it that was dropped above.
            node.target = aten.reshape.default
    store_computed_weights(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _make_functional(node: fx.Node) -> None:
    """Make a call that writes into its input one that makes a new tensor, for all who read the input later."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return
    written = cast("fx.Node", node.args[0])
    name = node.target._schema.name.removeprefix("aten::")
    if written.op in ("get_attr", "placeholder") or not name.endswith("_"):
        raise ModelpressError(
            "unsupported_graph",
            f"Node {node.name} writes into a weight, a buffer or an input.",
            hint="Call `model.eval()` before exporting.",
            node=node.name,
        )
    packet = getattr(aten, name.removesuffix("_"))
    node.target = getattr(packet, node.target._overloadname)
    order = {user: index for index, user in enumerate(node.graph.nodes)}
    for user in [user for user in written.users if order[user] > order[node]]:
        user.replace_input_with(written, node)


def _drop_dropout(node: fx.Node) -> None:
    if node.args[2]:
        raise ModelpressError(
            "unsupported_graph",
            f"Node {node.name} is a dropout in training mode.",
            hint="Call `model.eval()` before exporting.",
            node=node.name,
        )
    _replace(node, cast("fx.Node", node.args[0]))


def _casts_to_itself(node: fx.Node) -> bool:
    if getattr(node.target, "overloadpacket", None) not in (aten.to, aten._to_copy):
        return False
    source = cast("fx.Node", node.args[0])
    return bool(source.meta["value"].dtype == node.meta["value"].dtype)


def _use_weight(graph: fx.GraphModule, node: fx.Node, turned: dict[str, str]) -> None:
    """Make x·W and x·Wᵀᵀ one linear call, where W is a stored matrix (in, out)."""
    source, factor = cast("fx.Node", node.args[0]), _single_matrix(cast("fx.Node", node.args[1]))
    is_linear = node.target is aten.linear.default
    transposed, stored = _stored_matrix(factor)
    if stored is None or source.op == "get_attr" or (is_linear and not transposed):
        return
    weight = _transposed(graph, stored, turned) if is_linear or not transposed else stored
    bias = node.args[2] if is_linear and len(node.args) > 2 else None
    with graph.graph.inserting_before(node):
        linear = graph.graph.call_function(aten.linear.default, (source, weight, bias))
    linear.meta["value"] = node.meta["value"]
    _replace(node, linear)


def _single_matrix(factor: fx.Node) -> fx.Node:
    """The matrix that a factor repeats for each sample, or the factor itself."""
    node = factor
    shape = tuple(factor.meta["value"].shape[-2:])
    while node.target in (*_VIEWS, aten.reshape.default, aten.expand.default, aten.unsqueeze.default):
        node = cast("fx.Node", node.args[0])
        if tuple(node.meta["value"].shape[-2:]) != shape:
            return factor
    return node if node.meta["value"].dim() == 2 else factor


def _stored_matrix(factor: fx.Node) -> tuple[bool, fx.Node | None]:
    """Whether a factor is a transpose, and the stored matrix behind it, if it is one."""
    if factor.meta["value"].dim() != 2:
        return False, None
    if factor.op == "get_attr":
        return False, factor
    source = factor.args[0] if factor.target in _TRANSPOSES else None
    swaps = factor.target is not aten.permute.default or list(cast("list[int]", factor.args[1])) in ([1, 0], [-1, -2])
    if isinstance(source, fx.Node) and source.op == "get_attr" and swaps:
        return True, source
    return False, None


def _transposed(graph: fx.GraphModule, stored: fx.Node, turned: dict[str, str]) -> fx.Node:
    """A node for the stored matrix transposed; it takes over the name when nothing needs the matrix as it was."""
    path = str(stored.target)
    if path not in turned:
        uses = [user for node in graph.graph.find_nodes(op="get_attr", target=path) for user in node.users]
        turned[path] = path if all(_is_factor(user, path) for user in uses) else f"{path}_transposed"
        matrix = find(graph, path).detach()
        parent, _, leaf = turned[path].rpartition(".")
        owner = graph.get_submodule(parent)
        owner._parameters.pop(leaf, None)
        owner._buffers.pop(leaf, None)
        owner.register_parameter(leaf, nn.Parameter(matrix.t()))
    with graph.graph.inserting_before(stored):
        node = graph.graph.get_attr(turned[path])
    node.meta["value"] = find(graph, turned[path]).detach()
    return node


def _is_factor(user: fx.Node, path: str) -> bool:
    """Whether a call only multiplies by the matrix, as it is in x·W or twice transposed in a linear call."""
    if user.target in _TRANSPOSES:
        return all(other.target is aten.linear.default and other.args[1] is user for other in user.users)
    if user.target not in (aten.matmul.default, aten.mm.default, aten.addmm.default):
        return False
    factor = user.args[2] if user.target is aten.addmm.default else user.args[1]
    others = [argument for argument in user.all_input_nodes if argument is not factor]
    return isinstance(factor, fx.Node) and factor.target == path and all(node.target != path for node in others)


def _split_sum(graph: fx.GraphModule, node: fx.Node, turned: dict[str, str]) -> None:
    """Make b + x·Wᵀ of a decomposed export a linear call with bias."""
    bias, source, factor = (cast("fx.Node", argument) for argument in node.args[:3])
    transposed, stored = _stored_matrix(factor)
    if stored is None or bias.op != "get_attr" or bias.meta["value"].dim() != 1 or node.kwargs:
        return
    weight = stored if transposed else _transposed(graph, stored, turned)
    with graph.graph.inserting_before(node):
        linear = graph.graph.call_function(aten.linear.default, (source, weight, bias))
    linear.meta["value"] = node.meta["value"]
    _replace(node, linear)


def _absorb_bias(graph: fx.GraphModule, node: fx.Node) -> None:
    """Make linear(x, W) + b one call with a bias, where b is a stored vector."""
    for product, bias in (node.args[:2], reversed(node.args[:2])):
        if not isinstance(product, fx.Node) or not isinstance(bias, fx.Node) or node.kwargs:
            continue
        bare = product.target is aten.linear.default and (len(product.args) < 3 or product.args[2] is None)
        if not bare or bias.op != "get_attr" or len(product.users) != 1:
            continue
        if tuple(bias.meta["value"].shape) != tuple(product.meta["value"].shape[-1:]):
            continue
        with graph.graph.inserting_before(node):
            linear = graph.graph.call_function(aten.linear.default, (product.args[0], product.args[1], bias))
        linear.meta["value"] = node.meta["value"]
        _replace(node, linear)
        return


def _take_first_result(node: fx.Node) -> None:
    """Make a normalisation of a decomposed export, which gives three results, the plain one."""
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
        return
    target, keep = _FIRST_RESULTS[node.target]
    args = [node.args[index] if isinstance(index, int) else index == "yes" for index in keep]
    with node.graph.inserting_before(node):
        plain = node.graph.call_function(target, tuple(args))
    for user in list(node.users):
        plain.meta["value"] = user.meta["value"]
        _replace(user, plain)
    node.graph.erase_node(node)


# Target -> plain call, and which arguments it takes over ("no" and "yes" are the flags that it has besides).
_FIRST_RESULTS: Mapping[object, tuple[torch._ops.OpOverload, tuple[int | str, ...]]] = {
    aten.native_layer_norm.default: (aten.layer_norm.default, (0, 1, 2, 3, 4)),
    aten.native_group_norm.default: (aten.group_norm.default, (0, 6, 1, 2, 7)),
    aten._native_batch_norm_legit_no_training.default: (aten.batch_norm.default, (0, 1, 2, 3, 4, "no", 5, 6, "yes")),
}


def _replace(node: fx.Node, other: fx.Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
