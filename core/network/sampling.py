"""Inputs to try a network with: random ones and edge cases, integers within the tables that they index."""

from collections.abc import Sequence

import torch
from torch import fx, nn

from core.description import BATCH, TensorDescription
from core.network.batch_axes import Axes
from core.network.flat import make_example
from core.network.network import Network

# What an integer input without a table is drawn from.
_SMALL_INTEGERS = 2
# What is counted from a mask, or is its size, may lead to a table that the mask itself does not index.
_COMPUTED = (torch.ops.aten.cumsum.default, torch.ops.aten.mul.Tensor, torch.ops.aten.sym_size.int)
_LONGEST_TEXT = 512


def draw_inputs(
    graph: fx.GraphModule, example: Sequence[torch.Tensor], *, seed: int, scale: float = 1.0
) -> tuple[torch.Tensor, ...]:
    """One tensor for each input of a lifted graph: normal with deviation `scale`, or uniform integers in range.

    `example` gives types and sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for node, like in zip(graph.graph.find_nodes(op="placeholder"), example, strict=True):
        if like.is_floating_point():
            inputs.append(torch.randn(like.shape, generator=generator) * scale)
        else:
            limit = 2 if like.dtype == torch.bool else _table_size(graph, node)
            drawn = torch.randint(0, limit, like.shape, generator=generator) if scale else torch.zeros(like.shape)
            inputs.append(drawn.to(like.dtype))
    return tuple(inputs)


def resized(example: Sequence[torch.Tensor], axes: Axes, batch: int) -> tuple[torch.Tensor, ...]:
    """Zeros like the example, with `batch` samples along the axes; what has no such axis is as it was."""
    return tuple(
        tensor.new_zeros([batch if index == axis else size for index, size in enumerate(tensor.shape)])
        for tensor, axis in zip(example, axes, strict=True)
    )


def example_of(
    inputs: Sequence[TensorDescription], *, batch: int, free: int = 16, axes: Axes | None = None
) -> tuple[torch.Tensor, ...]:
    """Zeros in the shape of each input; `batch` where samples are counted, other free sizes are `free`.

    Samples are counted along the axes, or along what is named so.
    """
    example = []
    for position, value in enumerate(inputs):
        dtype: torch.dtype = getattr(torch, value.dtype)
        counted = (value.shape.index(BATCH) if BATCH in value.shape else None) if axes is None else axes[position]
        shape = [
            size if isinstance(size, int) else batch if index == counted else free
            for index, size in enumerate(value.shape)
        ]
        example.append(make_example(value.name, shape, torch.float32 if dtype.is_floating_point else dtype))
    return tuple(example)


def integer_limits(graph: fx.GraphModule) -> tuple[int, ...]:
    """For each input of a lifted graph the size of the smallest table that its integers can index."""
    return tuple(_table_size(graph, node) for node in graph.graph.find_nodes(op="placeholder"))


def longest_text(network: Network) -> int | None:
    """The most tokens, of powers of two up to 512, that a network takes whose inputs leave their length free.

    Tables of positions end somewhere, which no shape tells. None where no input is a text of free length.
    """
    free = {tensor.shape[1] for tensor in network.inputs if len(tensor.shape) == 2 and tensor.dtype.startswith("int")}
    names = {size for size in free if isinstance(size, str) and size != BATCH}
    length = _LONGEST_TEXT if names else None
    while length is not None and length > 1 and not _takes(network, names, length):
        length //= 2
    return length


def _takes(network: Network, names: set[str], length: int) -> bool:
    sizes = {**network.sizes, **dict.fromkeys(names, length)}
    inputs = [
        tensor.model_copy(update={"shape": tuple(sizes.get(str(size), size) for size in tensor.shape)})
        for tensor in network.inputs
    ]
    try:
        with torch.no_grad():
            network.graph(*example_of(inputs, batch=1))
    except (RuntimeError, IndexError):
        return False
    return True


def _table_size(graph: fx.GraphModule, start: fx.Node) -> int:
    """The smallest embedding table, or width of a one-hot code, that integers from this input can index."""
    sizes, seen, waiting = [], {start}, [start]
    while waiting:
        for user in waiting.pop().users:
            module = graph.get_submodule(str(user.target)) if user.op == "call_module" else None
            if isinstance(module, nn.Embedding):
                sizes.append(module.num_embeddings)
            elif (count := _one_hot_size(graph, user)) is not None:
                sizes.append(count)
            elif module is None and user not in seen and user.target not in _COMPUTED:
                seen.add(user)
                waiting.append(user)
    return min(sizes, default=_SMALL_INTEGERS)


def _one_hot_size(graph: fx.GraphModule, node: fx.Node) -> int | None:
    """How many numbers a comparison has beside it, where it makes a one-hot code: 0, 1, 2 and so on."""
    if node.target is not torch.ops.aten.eq.Tensor:
        return None
    for source in node.all_input_nodes:
        stored = dict(graph.named_buffers()).get(str(source.target)) if source.op == "get_attr" else None
        if stored is not None:
            numbers = stored.flatten()
            if numbers.numel() > 1 and numbers.equal(torch.arange(numbers.numel()).to(numbers.dtype)):
                return numbers.numel()
        if source.target is torch.ops.aten.arange.default and isinstance(source.args[0], int):
            return source.args[0]
    return None
