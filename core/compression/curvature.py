"""How strongly the answers of a network change with each weight: what says which rounding errors hurt."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from core.compression.logits import CLASS_TASKS, Undo, logits_of
from core.description import Task
from core.errors import ModelpressError
from core.network.encodings import ActivationGrid
from core.network.network import Network
from core.network.share import copy_graph

# How far weights are moved, as a share of their root mean square, to see how the gradient changes.
_STEP = 1e-3
_TINY = 1e-12

Inputs = tuple[Tensor, ...]
Parts = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
Labels = TypeVar("Labels")


def diagonal_fisher(
    network: Network, batches: Iterable[Inputs], names: Collection[str], *, task: Task, seed: int
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of each parameter in `names`, in its shape, a mean over samples.

    E[g²] where g is the gradient of the loss against labels that are drawn from the network's own answers (Martens
    2020, arXiv 1412.1193, section 5), so that no labels are needed, and half of Σ F·Δ² is about what the loss rises by
    when the weights change by Δ. Draws are independent, so that the square of a batch's summed gradient is the sum of
    its samples' squares in the mean; smaller batches give a less noisy figure.

    Raises `missing_data` without a batch, `non_finite`.
    """
    return fisher_of(network, batches, names, dict, task=task, seed=seed)


@torch.enable_grad()
def fisher_of(
    network: Network, batches: Iterable[Inputs], names: Collection[str], parts: Parts, *, task: Task, seed: int
) -> dict[str, Tensor]:
    """As `diagonal_fisher`, of numbers that are sums over gradients of weights: `parts` makes them, by any names.

    With w·g summed over a channel that is the square of the gradient of a gate on it. Raises `missing_data` without a
    batch, `non_finite`.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = ((inputs, None) for inputs in batches)
    return empirical_squares(
        network, drawn, names, parts, task=task, loss=lambda found, _: _loss_of_draw(found, task, generator)
    )


def empirical_squares(
    network: Network,
    batches: Iterable[tuple[Inputs, Labels]],
    names: Collection[str],
    parts: Parts,
    *,
    task: Task,
    loss: Callable[[Tensor, Labels], Tensor],
) -> dict[str, Tensor]:
    """As `fisher_of`, by a loss of logits and labels that is summed over samples; labels are those of the batches.

    Raises `missing_data` without a batch, `non_finite`.
    """
    graph, weights = _differentiable(network, names)
    undo = logits_of(network, task)
    sums: dict[str, Tensor] = {}
    count = 0
    for inputs, labels in batches:
        found = answer_of(graph, undo, inputs, task)
        gradients = _gradients(loss(found, labels), weights)
        for name, value in parts(dict(zip(weights, gradients, strict=True))).items():
            squared = value.double().square()
            sums[name] = sums[name] + squared if name in sums else squared
        count += found.shape[0]
    if not count:
        raise ModelpressError("missing_data", "There are no samples to see on which weights the answers depend.")
    return {name: (total / count).float() for name, total in sums.items()}


@torch.enable_grad()
def mean_curvature(
    network: Network, batches: Iterable[Inputs], names: Collection[str], *, task: Task, seed: int
) -> dict[str, float]:
    """The trace of the Hessian by Hutchinson's method, of each parameter in `names`, divided by its size.

    E[vᵀHv]/n for v of ±1 (Yao et al. 2020, arXiv 1912.07145, algorithm 1), where H is that of the divergence from the
    network's own answers, whose gradient is zero where the weights are, so that H·v is the gradient at weights that are
    moved by a little v. A batch has one draw. Raises `missing_data` without a batch, `non_finite`.
    """
    graph, weights = _differentiable(network, names)
    undo, generator = logits_of(network, task), torch.Generator().manual_seed(seed)
    steps = {name: _STEP * float(weight.detach().square().mean().sqrt()) + _TINY for name, weight in weights.items()}
    originals = {name: weight.data for name, weight in weights.items()}
    sums, count = dict.fromkeys(weights, 0.0), 0
    for inputs in batches:
        with torch.no_grad():
            wanted = answer_of(graph, undo, inputs, task)
        signs = {name: _signs(weight, generator) for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.data = originals[name] + steps[name] * signs[name]
        loss = divergence(answer_of(graph, undo, inputs, task), wanted, task)
        for name, gradient in zip(weights, _gradients(loss, weights), strict=True):
            sums[name] += float((gradient.double() * signs[name]).sum()) / steps[name]
        for name, weight in weights.items():
            weight.data = originals[name]
        count += wanted.shape[0]
    if not count:
        raise ModelpressError("missing_data", "There are no samples to see on which weights the answers depend.")
    return {name: total / count / weights[name].numel() for name, total in sums.items()}


def _differentiable(network: Network, names: Collection[str]) -> tuple[fx.GraphModule, dict[str, nn.Parameter]]:
    """A copy in which only the named parameters have gradients, and these; roundings of activations are left out."""
    copied = replace(network, graph=copy_graph(network.graph)).graph
    for path, module in list(copied.named_modules()):
        if isinstance(module, ActivationGrid):
            copied.set_submodule(path, nn.Identity())
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    weights = {name: copied.get_parameter(name) for name in sorted(names)}
    for weight in weights.values():
        weight.requires_grad_()
    return copied, weights


def answer_of(graph: fx.GraphModule, undo: Undo, inputs: Inputs, task: Task) -> Tensor:
    """The first output as logits; embeddings of length √(width/2), so that their mean squared error is 1 − cosine."""
    found = graph(*inputs)
    first: Tensor = undo(found if isinstance(found, Tensor) else found[0])
    if not bool(torch.isfinite(first).all()):
        sentence = "The network answers some samples with what is no number, so that its curvature cannot be measured."
        raise ModelpressError("non_finite", sentence)
    return F.normalize(first, dim=-1) * (first.shape[-1] / 2) ** 0.5 if task == "embedding" else first


def _gradients(loss: Tensor, weights: dict[str, nn.Parameter]) -> list[Tensor]:
    """Zeros for weights that the answers do not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(weight) for weight in weights.values()]
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    pairs = zip(found, weights.values(), strict=True)
    return [torch.zeros_like(weight) if gradient is None else gradient for gradient, weight in pairs]


def _loss_of_draw(found: Tensor, task: Task, generator: torch.Generator) -> Tensor:
    """The loss, summed over samples, of answers (n, …) against labels drawn from them.

    Of several tokens of a sample the mean counts.
    """
    if task in CLASS_TASKS:
        logits = found.flatten(0, -2)
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(1)
        # Of k independent draws of a sample, a sum over √k has the square that the mean of k has in the mean.
        loss: Tensor = F.cross_entropy(logits, drawn, reduction="sum") / float(_tokens(found) ** 0.5)
        return loss
    if task == "multi_label":
        chances = found.detach().sigmoid()
        bits = torch.bernoulli(chances, generator=generator)
        return F.binary_cross_entropy_with_logits(found, bits, reduction="sum") / float(found[0].numel() ** 0.5)
    noise = torch.randn(found.shape, generator=generator)
    return (found * noise).sum() * float((2 / found[0].numel()) ** 0.5)


def divergence(found: Tensor, wanted: Tensor, task: Task) -> Tensor:
    """How far answers (n, …) are from those wanted, summed over samples, in the unit of the task's loss."""
    if task in CLASS_TASKS:
        ours, theirs = found.flatten(0, -2).log_softmax(-1), wanted.flatten(0, -2).log_softmax(-1)
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) / _tokens(found)
    if task == "multi_label":
        loss = F.binary_cross_entropy_with_logits(found, wanted.sigmoid(), reduction="sum")
        return loss / found[0].numel()
    return F.mse_loss(found, wanted, reduction="sum") / found[0].numel()


def _tokens(found: Tensor) -> int:
    """Answers of one sample: 1, or one for each token."""
    return found[0].numel() // found.shape[-1]


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, weight.shape, generator=generator).to(weight.dtype) * 2 - 1
