"""Least squares for what was cut: layers that lost inputs are fitted to what the original gives, by what they see."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from core.compression.matrices import PRODUCTS, Product, as_matrix, as_weight, count_rows, output_rows, take_rows
from core.compression.relay import Given, Relay, Samples, live_bytes, split_stages, stages_of
from core.network.network import Network
from core.network.share import copy_graph

Tick = Callable[[float], None]

# Of so many batches one is left out of the fit, and says how strongly the fit is held to the weights that are there.
HELD = 4
# What is added to the second moments, as a share of their mean: the larger, the nearer weights stay to what they were.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Inputs of a layer whose moments are held; a wider one stays as it is.
_WIDEST = 4096
# Rows that are taken of each layer, at least so many for each input.
_MOST_ROWS, _ROWS_A_COLUMN = 16384, 8
# Bytes of values between two stages that are kept, above which every stage begins at the inputs; and of moments.
_KEPT_BYTES, _STAGE_BYTES = 512 * 2**20, 1 << 29
# Numbers in the rows of a layer that are held at once.
_CHUNK = 1 << 23


def is_held(number: int) -> bool:
    """Whether a batch of samples, by its number, is not fitted to."""
    return number % HELD == HELD - 1


def refit(original: Network, cut: Network, kept: Mapping[str, Sequence[int]], samples: Samples, tick: Tick) -> Network:
    """A copy of `cut` whose layers that lost inputs give what those of the original give, as far as they can.

    min ‖Ŵ·x̂ + b̂ − y‖² + λ‖Ŵ − W‖² over samples, where x̂ is what the cut network gives the layer by then, y what the
    original answers there, of the outputs that are left (He et al. 2017, arXiv 1707.06168, equation 5, and section
    3.3), besides what the stream beside it lost, and W, b are those that were cut out. λ is the one that is best on
    batches that the fit does not see; where none gains anything there, the layer stays. Layers in graph order. Those
    that are called twice, share a weight, are encoded, or have more than 4,096 inputs stay as well.

    `kept` has by layer the old numbers of its outputs, where some went; `tick` is told the share that is done.
    """
    result = replace(cut, graph=copy_graph(cut.graph))
    nodes = _readers(original, result)
    if not nodes:
        return result
    sizes = {node.name: _bytes_of_moments(_layer(result, node)) for node in nodes}
    stages = split_stages(stages_of(nodes), sizes, _STAGE_BYTES)
    batches = [len(inputs[0]) for inputs in samples()]
    with torch.no_grad():
        alive = live_bytes(original.graph, next(iter(samples())))
        keep = 2 * alive * len(batches) <= _KEPT_BYTES
        before, now = (Relay(network.graph, samples, keep=keep) for network in (original, result))
        for done, stage in enumerate(stages):
            fits = {node.name: _Fit(original, result, node, kept, sum(batches)) for node in stage.nodes}
            for number, (wanted, given) in enumerate(zip(before.reach(stage), now.reach(stage), strict=True)):
                tick((done + number / len(batches)) / len(stages))
                for name, fit in fits.items():
                    fit.add(given[name], wanted[name], held=is_held(number))
            for fit in fits.values():
                fit.put()
    return result


@final
class _Fit:
    """One layer: moments of its inputs and of what it misses, with a constant as last input where it has a bias."""

    def __init__(
        self, original: Network, cut: Network, node: fx.Node, kept: Mapping[str, Sequence[int]], samples: int
    ) -> None:
        self._source, self._layer = _layer(original, node), _layer(cut, node)
        outputs = kept.get(str(node.target))
        self._outputs = None if outputs is None else torch.tensor(outputs)
        matrix = as_matrix(self._layer, self._layer.weight)
        columns = matrix.shape[2]
        self._most = max(_MOST_ROWS, _ROWS_A_COLUMN * columns) / samples
        self._draw = np.random.default_rng(0)
        width = columns + (self._layer.bias is not None)
        # Fitted to, and held back.
        self._sums = [_Sums(matrix.shape[0], matrix.shape[1], width) for _ in range(2)]

    def add(self, given: Given, wanted: Given, *, held: bool) -> None:
        """Some rows of a batch, as they are drawn."""
        value = self._source(wanted.input)
        axis = -1 if isinstance(self._layer, nn.Linear) else 1
        if self._outputs is not None:
            value = value.index_select(axis, self._outputs)
        missed = value - self._layer(given.input)
        if wanted.beside is not None and given.beside is not None:
            stream = wanted.beside
            if self._outputs is not None and stream.dim() == value.dim():
                stream = stream.index_select(axis, self._outputs)
            if stream.shape == given.beside.shape == missed.shape:
                missed += stream - given.beside
        count = count_rows(self._layer, given.input)
        most = int(self._most * len(given.input)) + 1
        chosen = np.arange(count) if count <= most else np.sort(self._draw.choice(count, most, replace=False))
        pieces = -(-len(chosen) * self._sums[held].columns * self._sums[held].groups // _CHUNK)
        for piece in np.array_split(chosen, max(pieces, 1)):
            few = torch.from_numpy(piece)
            rows = take_rows(self._layer, given.input, few)
            if self._layer.bias is not None:
                rows = F.pad(rows, (0, 1), value=1.0)
            self._sums[held].add(rows, output_rows(self._layer, missed, few))

    def put(self) -> None:
        """Change the layer by what gains most on what was held back, if anything does."""
        change = _solve(*self._sums)
        if change is None:
            return
        columns = as_matrix(self._layer, self._layer.weight).shape[2]
        weight, bias = change[..., :columns], change[..., columns:]
        self._layer.weight.data = self._layer.weight + as_weight(self._layer, weight.float())
        if self._layer.bias is not None:
            self._layer.bias.data = self._layer.bias + bias.float().flatten()


@final
class _Sums:
    """Σ x̂x̂ᵀ (groups, columns, columns) and Σ (y − ŷ)x̂ᵀ (groups, outputs, columns), float64."""

    def __init__(self, groups: int, outputs: int, columns: int) -> None:
        self.groups, self.columns, self.rows = groups, columns, 0
        self.second = torch.zeros(groups, columns, columns, dtype=torch.float64)
        self.missed = torch.zeros(groups, outputs, columns, dtype=torch.float64)

    def add(self, rows: Tensor, missed: Tensor) -> None:
        """Rows of inputs (groups, rows, columns) and of what is missed (groups, rows, outputs)."""
        self.rows += rows.shape[1]
        self.second += rows.mT @ rows
        self.missed += missed.mT @ rows

    def gain(self, change: Tensor) -> float:
        """By how much the squared error falls, a mean over rows, if the matrix changes by this."""
        return float((2 * self.missed - change @ self.second).mul(change).sum()) / max(self.rows, 1)


def _solve(fitted: _Sums, held: _Sums) -> Tensor | None:
    """The change (groups, outputs, columns) that gains most on what was held back; None where none gains anything."""
    if not fitted.rows or not all(bool(torch.isfinite(each).all()) for each in (fitted.second, fitted.missed)):
        return None
    # Without a batch that is held back, by the same.
    judge = held if held.rows else fitted
    mean = fitted.second.diagonal(dim1=1, dim2=2).mean(1)[:, None]
    best, most = None, 0.0
    for ridge in _RIDGES:
        damped = fitted.second + torch.diag_embed((ridge * mean).expand(-1, fitted.columns))
        root, failed = torch.linalg.cholesky_ex(damped)
        if bool(failed.any()):
            continue
        change = torch.cholesky_solve(fitted.missed.mT, root).mT
        gain = judge.gain(change)
        if gain > most:
            best, most = change, gain
    return best


def _readers(original: Network, cut: Network) -> list[fx.Node]:
    """The calls of layers that have fewer inputs than they had, and weights of their own that nothing encodes."""
    calls = Counter(str(node.target) for node in original.graph.graph.nodes if node.op == "call_module")
    owners = Counter(id(each) for _, each in cut.graph.named_parameters(remove_duplicate=False))
    found = []
    for node in original.graph.graph.nodes:
        path = str(node.target)
        if node.op != "call_module" or calls[path] > 1 or {f"{path}.weight", f"{path}.bias"} & cut.encodings.keys():
            continue
        layer = cut.graph.get_submodule(path)
        if not isinstance(layer, PRODUCTS) or any(owners[id(each)] > 1 for each in layer.parameters()):
            continue
        columns = [as_matrix(each, each.weight).shape[2] for each in (_layer(original, node), layer)]
        if columns[1] < columns[0] and columns[1] <= _WIDEST:
            found.append(node)
    return found


def _bytes_of_moments(layer: Product) -> int:
    groups, outputs, columns = as_matrix(layer, layer.weight).shape
    return 2 * 8 * groups * columns * (columns + outputs)


def _layer(network: Network, node: fx.Node) -> Product:
    return cast("Product", network.graph.get_submodule(str(node.target)))
