"""One node while its rule runs: its arguments by name, the dimensions of what goes in, later changes of constants."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from core.errors import ModelpressError
from core.network.surgery.dimensions import Axis, Dimension, Dims, Misfit, fixed, freeze, size, unify

# What a node gives: the dimensions of a tensor, several values, or something that is no tensor.
Value: TypeAlias = "Dims | tuple[Value, ...] | None"
Shape: TypeAlias = "list[int] | tuple[Shape, ...] | None"
Size = Callable[[Dimension], int]
Change = Callable[["Site", Size], None]


@final
@dataclass(frozen=True)
class Site:
    """Where a constant is changed: a node of the copy, and the layer that it calls."""

    node: fx.Node
    layer: nn.Module

    def argument(self, name: str) -> object:
        """An argument of the node, named as in the operator's schema."""
        position = _positions(self.node)[name][0]
        return self.node.args[position] if position < len(self.node.args) else self.node.kwargs[name]

    def set_argument(self, name: str, value: object) -> None:
        """Give the node another argument, named as in the operator's schema."""
        position = _positions(self.node)[name][0]
        if position < len(self.node.args):
            self.node.update_arg(position, cast("Argument", value))
        else:
            self.node.update_kwarg(name, cast("Argument", value))


@final
@dataclass(frozen=True)
class Edit:
    """What changes at a node when the size of one of these dimensions does."""

    node: fx.Node
    dims: tuple[Dimension, ...]
    change: Change


@final
@dataclass
class Ledger:
    """What rules write down for all nodes together; `averaged` are dimensions that a mean or a norm runs over."""

    values: dict[fx.Node, Value] = field(default_factory=dict)
    tensors: dict[int, tuple[Tensor, Dims]] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    averaged: list[Dimension] = field(default_factory=list)
    # By the name of a parameter's storage, why it cannot be cut.
    uncut: Mapping[int, str] = field(default_factory=dict)

    def dims_of(self, tensor: Tensor) -> Dims:
        """The dimensions of a parameter or a buffer, one fresh axis each at first."""
        if id(tensor) not in self.tensors:
            why = self.uncut.get(id(tensor))
            self.tensors[id(tensor)] = (tensor, [Axis(n, [why] if why else []) for n in tensor.shape])
        return self.tensors[id(tensor)][1]

    def value_of(self, argument: object) -> Value:
        """The dimensions of an argument that is a node, or of a list of them."""
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, (list, tuple)):
            return tuple(self.value_of(each) for each in argument)
        return None


@final
class Call:
    """A node, and what its rule may ask and say; `shape` is that of the node's value."""

    def __init__(self, ledger: Ledger, node: fx.Node, shape: Shape, layer: nn.Module | None = None) -> None:
        self.ledger = ledger
        self.node = node
        self.raw_shape = shape
        self._layer = layer
        self._positions = {} if layer is not None else _positions(node)

    @property
    def name(self) -> str:
        """The operator's name without its namespace."""
        return operator_name(self.node.target)

    @property
    def shape(self) -> list[int]:
        """The shape of the one tensor that the node makes."""
        if not isinstance(self.raw_shape, list):
            raise Misfit
        return self.raw_shape

    @property
    def shapes(self) -> tuple[list[int], ...]:
        """The shapes of the several tensors that the node makes."""
        if not isinstance(self.raw_shape, tuple):
            raise Misfit
        return tuple(shape for shape in self.raw_shape if isinstance(shape, list))

    @property
    def makes_several(self) -> bool:
        """Whether the node makes several tensors."""
        return isinstance(self.raw_shape, tuple)

    @property
    def layer(self) -> nn.Module | None:
        """The layer that the node calls, None of a plain call."""
        return self._layer

    def has(self, name: str) -> bool:
        """Whether the operator has an argument of this name."""
        return name in self._positions

    def get(self, name: str) -> object:
        """An argument by its name in the schema, or its default."""
        if name not in self._positions:
            return None
        position, default = self._positions[name]
        if position < len(self.node.args):
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    def integer(self, name: str) -> int:
        """An argument that must be a plain number."""
        value = self.get(name)
        if not isinstance(value, int):
            raise Misfit
        return value

    def axis(self, name: str, rank: int) -> int:
        """A dimension's number, counted from 0; the default is 0."""
        value = self.get(name)
        if value is None:
            return 0
        return self.integer(name) % rank

    def axes(self, name: str, rank: int) -> list[int]:
        """Numbers of dimensions; none stands for all."""
        value = self.get(name)
        if value is None or value == []:
            return list(range(rank))
        numbers = [value] if isinstance(value, int) else cast("Sequence[int]", value)
        return [number % rank for number in numbers]

    def maybe(self, *names: str) -> Dims | None:
        """The dimensions of the first of these arguments that is a tensor; of a layer its weight of that name."""
        for name in names:
            if self._layer is not None:
                tensor = getattr(self._layer, name, None)
                value: Value = self.ledger.dims_of(tensor) if isinstance(tensor, Tensor) else None
            else:
                value = self.ledger.value_of(self.get(name))
            if isinstance(value, list):
                return value
        return None

    def dims(self, *names: str) -> Dims:
        """As `maybe`; raises `Misfit` where there is none."""
        found = self.maybe(*names)
        if found is None:
            raise Misfit
        return found

    def source(self) -> Dims:
        """The dimensions of a layer's input, or of a call's main argument."""
        if self._layer is None:
            return self.dims("self", "input")
        value = self.ledger.value_of(self.node.args[0])
        if not isinstance(value, list):
            raise Misfit
        return value

    def several(self, name: str) -> list[Dims]:
        """The dimensions of an argument that is a list of tensors."""
        value = self.ledger.value_of(self.get(name))
        if not isinstance(value, tuple):
            raise Misfit
        return [each for each in value if isinstance(each, list)]

    def tie(self, e: Dimension, *others: Dimension) -> None:
        """All of these have the same index."""
        for other in others:
            unify(e, other)

    def freeze(self, dims: Iterable[Dimension], why: str) -> None:
        """Keep every position of these."""
        for e in dims:
            freeze(e, why)

    def edit(self, dims: Iterable[Dimension], change: Change) -> None:
        """Change something at this node when the size of one of `dims` changes."""
        self.ledger.edits.append(Edit(self.node, tuple(dims), change))

    def edit_sizes(self, name: str, out: Dims) -> None:
        """When `out` changes, write its sizes over the constants of argument `name`; a computed one becomes -1."""

        def change(site: Site, size_: Size) -> None:
            old = cast("Sequence[object]", site.argument(name))
            site.set_argument(name, _new_sizes(site.node, old, out, size_))

        if isinstance(self.get(name), (list, tuple)):
            self.edit(out, change)


def operator_name(target: object) -> str:
    """The name of an ATen operator without its overload; of something else what Python calls it."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1].rstrip("_")
    return getattr(target, "__name__", str(target))


def fresh(shape: Sequence[int], why: str = "fixed size") -> Dims:
    """Dimensions of which every position stays."""
    return [fixed(n, why) for n in shape]


def _new_sizes(node: fx.Node, old: Sequence[object], out: Dims, size_: Size) -> list[object]:
    new: list[object] = [
        size_(e) if isinstance(given, int) and given != -1 else given for given, e in zip(old, out, strict=True)
    ]
    for index, (given, e) in enumerate(zip(old, out, strict=True)):
        if isinstance(given, fx.Node) and size_(e) != size(e):
            if -1 in new:
                raise ModelpressError(
                    "unsupported_graph",
                    f"Node {node.name} computes two sizes that depend on what is cut.",
                    node=node.name,
                )
            new[index] = -1
    return new


def _positions(node: fx.Node) -> dict[str, tuple[int, object]]:
    """By name, where an argument of an ATen call is and what its default is."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    arguments = node.target._schema.arguments
    return {argument.name: (index, argument.default_value) for index, argument in enumerate(arguments)}
