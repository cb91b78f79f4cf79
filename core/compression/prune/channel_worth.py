"""What each index of a group of channels is worth: one number an index, (size,), that groups can be compared by."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from core.compression.candidates import TRANSPOSED
from core.compression.context import Context
from core.compression.curvature import fisher_of
from core.compression.prune.criteria import FISHER_BATCH, squares_by_labels, take_samples
from core.errors import ModelpressError
from core.network.network import Network
from core.network.surgery import Group
from core.network.surgery.cutting import owners
from core.specs.structured_pruning import NO_NORMS, ChannelCriterion, ChannelPruning

_TINY = 1e-30
_TEXT = "Measuring which channels the answers depend on"

Worth = dict[Group, Tensor]


def weigh_channels(network: Network, groups: Sequence[Group], spec: ChannelPruning, context: Context) -> Worth:
    """The worth of every index of these groups; raises `missing_data`, `non_finite`."""
    found = _CRITERIA[spec.criterion](network, groups, spec, context)
    for group, worth in found.items():
        if not bool(torch.isfinite(worth).all()):
            text = f"What the channels of {group.name} are worth is no finite number; another criterion may be."
            raise ModelpressError("non_finite", text, layer=layer_of(group))
    return found


def outputs_of(network: Network, group: Group) -> set[str]:
    """The layers that have the indices of a group among their output channels."""
    found, paths = set(), owners(network.graph)
    for member in group.members:
        for path in paths[id(member.tensor)]:
            layer = network.graph.get_submodule(path.rpartition(".")[0])
            # As PyTorch lays weights out: all others begin with their outputs.
            second = isinstance(layer, (nn.Embedding, *TRANSPOSED)) and member.tensor.dim() > 1
            if member.dim == int(second):
                found.add(path.rpartition(".")[0])
    return found


def layers_of(network: Network, groups: Iterable[Group]) -> tuple[str, ...]:
    """The layers that some index of these groups is in, also those that share a weight."""
    paths = owners(network.graph)
    members = (member for group in groups for member in group.members)
    return tuple(sorted({path.rpartition(".")[0] for each in members for path in paths[id(each.tensor)]}))


def layer_of(group: Group) -> str:
    """The layer whose weight gives a group its name."""
    return group.members[0].path.rpartition(".")[0]


def _by_weights(measure: Callable[[Tensor], Tensor]) -> Callable[..., Worth]:
    def weigh(network: Network, groups: Sequence[Group], spec: ChannelPruning, context: Context) -> Worth:  # noqa: ARG001  one signature for all criteria
        # Each weight tensor counts by its own mean, so that layers of all sizes can be compared.
        return {
            group: group.score(lambda weight: measure(weight) / measure(weight).mean().clamp_min(_TINY))
            / _weights_of_an_index(group)
            for group in groups
        }

    return weigh


def _weights_of_an_index(group: Group) -> float:
    return max(float(group.score(torch.ones_like).mean()), 1.0)


def _geometric_median(network: Network, groups: Sequence[Group], spec: ChannelPruning, context: Context) -> Worth:  # noqa: ARG001  one signature for all criteria
    """Σ over j of ‖w_i − w_j‖, as a share of its mean (He et al. 2019, arXiv 1811.00250, equation 5)."""
    found = {}
    for group in groups:
        squares = torch.zeros(group.size, group.size, dtype=torch.float64)
        for member in group.members:
            if member.is_parameter:
                rows = _rows_of_indices(member.tensor, member.dim, member.labels, group.size)
                squares += torch.cdist(rows, rows).square()
        total = squares.sqrt().sum(1)
        found[group] = (total / total.mean().clamp_min(_TINY)).float()
    return found


def _rows_of_indices(tensor: Tensor, dim: int, labels: Tensor, size: int) -> Tensor:
    """All numbers of a weight that belong to each index, (size, numbers), in the order in which they are stored."""
    taken = labels >= 0
    rows = tensor.detach().double().movedim(dim, 0).reshape(len(labels), -1)[taken]
    order = labels[taken].argsort(stable=True)
    return rows[order].reshape(size, -1)


def _batch_norm_scale(network: Network, groups: Sequence[Group], spec: ChannelPruning, context: Context) -> Worth:  # noqa: ARG001  one signature for all criteria
    """The mean of |γ| over the batch norms of an index (Liu et al. 2017, arXiv 1708.06519); groups without stay."""
    found: Worth = {}
    for group in groups:
        scales = torch.zeros(2, group.size)
        for member in group.members:
            layer = network.graph.get_submodule(member.path.rpartition(".")[0])
            if isinstance(layer, BatchNorm) and member.tensor is layer.weight:
                values = torch.stack([member.tensor.detach().abs(), torch.ones(len(member.labels))])
                scales.index_add_(1, member.labels.clamp(min=0), values * (member.labels >= 0))
        if bool(scales[1].any()):
            found[group] = scales[0] / scales[1].clamp_min(1)
    if not found:
        raise ModelpressError("method_not_applicable", NO_NORMS)
    if len(found) < len(groups):
        whole = ", ".join(sorted({layer_of(group) for group in groups if group not in found}))
        context.log(f"These have no batch norm, so that their channels stay: {whole}.")
    return found


def _fisher(network: Network, groups: Sequence[Group], spec: ChannelPruning, context: Context) -> Worth:
    """E[(Σ w·g)²] over the weights that make a channel: the square of its gate's gradient (arXiv 1906.10771, eq. 8).

    Against labels that are drawn from the answers.
    """
    batches = take_samples(network, spec.samples, context, batch=FISHER_BATCH, text=_TEXT)
    gates, names = _gates(groups), _names_of_weights(groups)
    squares = fisher_of(network, batches, names, gates, task=context.needed_dataset().task, seed=context.seed)
    return {group: squares[group.name] for group in groups}


def _taylor(network: Network, groups: Sequence[Group], spec: ChannelPruning, context: Context) -> Worth:
    """As `_fisher`, against the labels of the samples."""
    squares = squares_by_labels(network, _names_of_weights(groups), _gates(groups), spec.samples, context)
    return {group: squares[group.name] for group in groups}


def _gates(groups: Sequence[Group]) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """From gradients of weights those of a gate on each index, Σ w·g, by the name of its group."""
    makers = {group.name: [each for each in group.members if each.is_parameter] for group in groups}
    sizes = {group.name: group.size for group in groups}

    def gates(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, members in makers.items():
            total = torch.zeros(sizes[name], dtype=torch.float64)
            for member in members:
                change = (gradients[member.path] * member.tensor.detach()).double()
                values = change.movedim(member.dim, 0).reshape(len(member.labels), -1).sum(1)
                total.index_add_(0, member.labels.clamp(min=0), values * (member.labels >= 0))
            found[name] = total
        return found

    return gates


def _names_of_weights(groups: Sequence[Group]) -> list[str]:
    return sorted({member.path for group in groups for member in group.members if member.is_parameter})


def _random(network: Network, groups: Sequence[Group], spec: ChannelPruning, context: Context) -> Worth:  # noqa: ARG001  one signature for all criteria
    generator = torch.Generator().manual_seed(context.seed)
    return {group: torch.rand(group.size, generator=generator) for group in groups}


_CRITERIA: Mapping[ChannelCriterion, Callable[[Network, Sequence[Group], ChannelPruning, Context], Worth]] = {
    "l1": _by_weights(torch.abs),
    "l2": _by_weights(torch.square),
    "geometric_median": _geometric_median,
    "batch_norm_scale": _batch_norm_scale,
    "fisher": _fisher,
    "taylor": _taylor,
    "random": _random,
}
