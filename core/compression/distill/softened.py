"""Losses between what two networks answer: Hinton's, its decoupled form, and correlation; pure functions on tensors.

The teacher's side is given as log-probabilities at the loss's temperature, so that several teachers are one.
Shapes: `found` (n, classes) logits of the student, `wanted` (n, classes) log-probabilities of the teacher; `shares`
(n,) say how much each row counts in the mean, left out: all alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A row whose values are all equal has no correlation with anything; its norm is taken as this.
SMALLEST_NORM = 1e-8


def soften(answers: Sequence[Tensor], temperature: float) -> Tensor:
    """Log of the mean of the teachers' probabilities at `temperature`; `answers` are logits (…, classes) of each."""
    softened = torch.stack([(logits / temperature).log_softmax(-1) for logits in answers])
    return softened.logsumexp(0) - math.log(len(answers))


def soften_each(answers: Sequence[Tensor]) -> Tensor:
    """Mean of the teachers' probabilities where every class stands for itself; logits (n, classes) of each."""
    return torch.stack([logits.sigmoid() for logits in answers]).mean(0)


def hinton(found: Tensor, wanted: Tensor, temperature: float, shares: Tensor | None = None) -> Tensor:
    """T² · KL(p_teacher ‖ p_student), mean over samples (Hinton et al. 2015, arXiv 1503.02531, section 2)."""
    student = (found / temperature).log_softmax(-1)
    return temperature**2 * _mean(_divergence(student, wanted), shares)


@dataclass(frozen=True, slots=True)
class Decoupling:
    """`target` (n,) is the class of each sample, `beta` the weight of the other classes."""

    target: Tensor
    beta: float


def decoupled(
    found: Tensor, wanted: Tensor, asked: Decoupling, temperature: float, shares: Tensor | None = None
) -> Tensor:
    """T² · (TCKD + β · NCKD), mean over samples (Zhao et al. 2022, arXiv 2203.08679, equations 6 and 7, α = 1).

    TCKD compares the target against all others, NCKD the others among themselves.
    """
    student = (found / temperature).log_softmax(-1)
    parts = [_decouple(each, asked.target) for each in (student, wanted)]
    (of_target, of_others), (wanted_of_target, wanted_of_others) = parts
    both = _divergence(of_target, wanted_of_target) + asked.beta * _divergence(of_others, wanted_of_others)
    return temperature**2 * _mean(both, shares)


def correlation(found: Tensor, wanted: Tensor, temperature: float, shares: Tensor | None = None) -> Tensor:
    """T² · (1 − ρ) over each sample's classes, and over each class's samples (arXiv 2205.10536, equations 9 to 11).

    ρ is Pearson's correlation of probabilities; both parts have the weight 1, and the factor T² is the authors' code's.
    One sample alone has no correlation with others, so then the second part is left out. It is of the samples that are
    learnt from at once: parts of a batch do not add up to the whole.
    """
    student, teacher = (found / temperature).softmax(-1), wanted.exp()
    loss = _mean(1 - _pearson(student, teacher), shares)
    if found.shape[0] > 1:
        loss = loss + (1 - _pearson(student.t(), teacher.t(), shares)).mean()
    return temperature**2 * loss


def hinton_of_each(found: Tensor, wanted: Tensor) -> Tensor:
    """KL between Bernoulli distributions, mean over samples and classes; `wanted` (n, classes) are probabilities."""
    entropy = F.binary_cross_entropy(wanted, wanted)
    return F.binary_cross_entropy_with_logits(found, wanted) - entropy


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each row, both log-probabilities; a probability of 0 adds nothing."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def _decouple(logs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of target and rest, (n, 2), and of the classes of the rest, (n, classes − 1)."""
    chosen = F.one_hot(target, logs.shape[-1]).bool()
    others = logs[~chosen].reshape(logs.shape[0], -1)
    rest = others.logsumexp(-1, keepdim=True)
    return torch.cat([logs[chosen][:, None], rest], -1), others - rest


def _mean(rows: Tensor, shares: Tensor | None) -> Tensor:
    return rows.mean() if shares is None else (rows * shares).sum()


def _pearson(one: Tensor, other: Tensor, shares: Tensor | None = None) -> Tensor:
    """The correlation of each row, whose values count by their shares."""
    if shares is None:
        centred = [each - each.mean(-1, keepdim=True) for each in (one, other)]
    else:
        shares = shares / shares.sum().clamp_min(SMALLEST_NORM)
        centred = [(each - (each * shares).sum(-1, keepdim=True)) * shares.sqrt() for each in (one, other)]
    return F.cosine_similarity(centred[0], centred[1], dim=-1, eps=SMALLEST_NORM)
