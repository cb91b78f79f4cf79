"""Runs calibration samples through a network stage by stage, while its layers are changed one after the other."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, fx

Inputs = tuple[Tensor, ...]
Samples = Callable[[], Iterable[Inputs]]
Values = dict[fx.Node, object]


@dataclass(frozen=True)
class Given:
    """The input of a layer, and what its output is added to, where that is known by then."""

    input: Tensor
    beside: Tensor | None


@dataclass(frozen=True)
class Stage:
    """Layers whose inputs are seen together: their nodes in graph order."""

    nodes: tuple[fx.Node, ...]


def stages_of(nodes: Sequence[fx.Node]) -> tuple[Stage, ...]:
    """Stages of layers that take the same value, such as queries, keys and values; `nodes` in graph order."""
    by_input: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        by_input.setdefault(node.all_input_nodes[0], []).append(node)
    return tuple(Stage(tuple(found)) for found in by_input.values())


def merge_stages(stages: Sequence[Stage], most: int) -> tuple[Stage, ...]:
    """At most so many stages, of neighbours; the layers of a stage are changed at once."""
    if len(stages) <= most:
        return tuple(stages)
    bounds = [round(len(stages) * number / most) for number in range(most + 1)]
    return tuple(
        Stage(tuple(node for stage in stages[low:high] for node in stage.nodes))
        for low, high in itertools.pairwise(bounds)
    )


def split_stages(stages: Sequence[Stage], sizes: Mapping[str, int], most: int) -> tuple[Stage, ...]:
    """The same layers in stages whose sizes, by name of the node, add up to `most`, or of one layer alone."""
    found: list[Stage] = []
    for stage in stages:
        part: list[fx.Node] = []
        for node in stage.nodes:
            if part and sum(sizes[each.name] for each in (*part, node)) > most:
                found.append(Stage(tuple(part)))
                part = []
            part.append(node)
        found.append(Stage(tuple(part)))
    return tuple(found)


def added_to(node: fx.Node) -> fx.Node | None:
    """What the output of a layer is added to, where nothing else reads it: the stream that a residual block feeds."""
    users = list(node.users)
    if len(users) != 1 or users[0].target != torch.ops.aten.add.Tensor or len(users[0].all_input_nodes) != 2:
        return None
    # With `alpha` one of both is scaled.
    if users[0].kwargs:
        return None
    one, other = users[0].all_input_nodes
    return other if one is node else one


@final
class Relay(fx.Interpreter):
    """The batches of a network on their way; each node of it is run once a batch where `keep` holds values in between.

    Without `keep` every stage begins at the inputs again, which takes the memory of one batch.
    """

    def __init__(self, module: fx.GraphModule, samples: Samples, *, keep: bool) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._samples = samples
        self._nodes = list(module.graph.nodes)
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._named = {node.name: node for node in self._nodes}
        self._last = {node: max((self._place[user] for user in node.users), default=-1) for node in self._nodes}
        self._kept: list[tuple[int, Values]] | None = None
        self._keep = keep

    def reach(self, stage: Stage) -> Iterator[dict[str, Given]]:
        """Of every batch what each layer of a stage is given, by the name of its node; stages in graph order."""
        nodes = sorted((self._named[node.name] for node in stage.nodes), key=self._place.__getitem__)
        first = self._place[nodes[0]]
        kept: list[tuple[int, Values]] = []
        for begin, values in self._starts():
            self._run(values, begin, first)
            if self._keep:
                kept.append((first, dict(values)))
            found: dict[str, Given] = {}
            place = first
            for node in nodes:
                if node.all_input_nodes[0] not in values:
                    self._run(values, place, self._place[node])
                    place = self._place[node]
                found[node.name] = self._given(node, values)
            yield found
        self._kept = kept if self._keep else None

    def _given(self, node: fx.Node, values: Values) -> Given:
        other = added_to(node)
        beside = values.get(other) if other is not None and other.op != "get_attr" else None
        return Given(cast("Tensor", values[node.all_input_nodes[0]]), cast("Tensor | None", beside))

    def _starts(self) -> Iterator[tuple[int, Values]]:
        if self._kept is not None:
            yield from self._kept
            return
        heads = [node for node in self._nodes if node.op == "placeholder"]
        for inputs in self._samples():
            yield 0, dict(zip(heads, inputs, strict=True))

    def _run(self, values: Values, begin: int, end: int) -> None:
        """Run the nodes from `begin` to before `end`, and drop values that no later node reads."""
        self.env = values
        for place in range(begin, end):
            node = self._nodes[place]
            if node.op != "placeholder":
                values[node] = self.run_node(node)
            for source in (*node.all_input_nodes, node):
                if self._last[source] <= place:
                    values.pop(source, None)


def live_bytes(module: fx.GraphModule, inputs: Inputs) -> int:
    """The largest number of bytes of values that are alive between two nodes, for this batch."""
    watcher = _Counter(module)
    watcher.run(*inputs)
    return watcher.most


@final
class _Counter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.most = 0

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        alive = [each for node, each in self.env.items() if node.op != "get_attr"]
        self.most = max(self.most, sum(each.nbytes for each in [*alive, value] if isinstance(each, Tensor)))
        return value
