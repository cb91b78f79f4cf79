"""Losses between what two networks answer: Hinton's, its decoupled form, and correlation; pure functions on tensors.

The teacher's side is given as log-probabilities at the loss's temperature, so that several teachers are one.
Shapes: `found` (n, classes) logits of the student, `wanted` (n, classes) log-probabilities of the teacher.
"""

import math
from collections.abc import Sequence

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


def hinton(found: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² · KL(p_teacher ‖ p_student), mean over samples (Hinton et al. 2015, arXiv 1503.02531, section 2)."""
    student = (found / temperature).log_softmax(-1)
    return temperature**2 * _divergence(student, wanted).mean()


def decoupled(found: Tensor, wanted: Tensor, target: Tensor, temperature: float, *, beta: float) -> Tensor:
    """T² · (TCKD + β · NCKD), mean over samples (Zhao et al. 2022, arXiv 2203.08679, equations 6 and 7, α = 1).

    `target` (n,) is the class of each sample. TCKD compares the target against all others, NCKD the others among
    themselves.
    """
    student = (found / temperature).log_softmax(-1)
    parts = [_decouple(each, target) for each in (student, wanted)]
    (of_target, of_others), (wanted_of_target, wanted_of_others) = parts
    both = _divergence(of_target, wanted_of_target) + beta * _divergence(of_others, wanted_of_others)
    return temperature**2 * both.mean()


def correlation(found: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² · (1 − ρ) over each sample's classes, and over each class's samples (arXiv 2205.10536, equations 9 to 11).

    ρ is Pearson's correlation of probabilities; both parts have the weight 1, and the factor T² is the authors' code's.
    One sample alone has no correlation with others, so then the second part is left out.
    """
    student, teacher = (found / temperature).softmax(-1), wanted.exp()
    loss = (1 - _pearson(student, teacher)).mean()
    if found.shape[0] > 1:
        loss = loss + (1 - _pearson(student.t(), teacher.t())).mean()
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


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    """The correlation of each row."""
    centred = [each - each.mean(-1, keepdim=True) for each in (one, other)]
    return F.cosine_similarity(centred[0], centred[1], dim=-1, eps=SMALLEST_NORM)
