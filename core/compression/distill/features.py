"""The objective of learning a teacher's inner values; adapters bring the student's to the teacher's channels."""

from collections.abc import Callable, Mapping
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.compression.distill import inner
from core.compression.distill.answers import AnswerLoss
from core.compression.distill.pairing import Pairing, Place
from core.compression.distill.teachers import Teachers
from core.compression.train.objective import Answers, Objective, TrainingBatch
from core.errors import ModelpressError

FeatureKind = Literal["hint", "attention", "relational"]

_COMPARE: Mapping[FeatureKind, Callable[[Tensor, Tensor], Tensor]] = {
    "hint": inner.hint,
    "attention": inner.attention,
    "relational": inner.relations,
}
# By the number of axes without the batch, what brings channels to channels.
_ADAPTERS: Mapping[int, Callable[[int, int], nn.Module]] = {
    1: lambda ours, theirs: nn.Linear(ours, theirs, bias=False),
    2: lambda ours, theirs: nn.Conv1d(ours, theirs, 1, bias=False),
    3: lambda ours, theirs: nn.Conv2d(ours, theirs, 1, bias=False),
    4: lambda ours, theirs: nn.Conv3d(ours, theirs, 1, bias=False),
}
# Averages over the places, by the number of their axes.
_AVERAGES: Mapping[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@final
class FeatureObjective(Objective):
    """The loss of the answers, and beside it the mean distance of the pairs."""

    def __init__(
        self, teacher: Teachers, pairings: tuple[Pairing, ...], kind: FeatureKind, *, weight: float, answers: AnswerLoss
    ) -> None:
        """`teacher` is one, that watches the pairings' nodes. Raises `method_not_applicable` for unlike shapes."""
        super().__init__()
        for pairing in pairings:
            _check(pairing, kind)
        self._teacher, self._pairings, self._weight, self._answers = teacher, pairings, weight, answers
        self._distance = _COMPARE[kind]
        self._bring = kind != "relational"
        self.adapters = nn.ModuleList(_adapter(each) if kind == "hint" else nn.Identity() for each in pairings)

    @property
    def watched(self) -> tuple[str, ...]:
        """The student's side of the pairs."""
        return tuple(dict.fromkeys(pairing.student.node for pairing in self._pairings))

    def forward(self, answers: Answers, batch: TrainingBatch) -> Tensor:
        """The loss of a batch."""
        (told,) = self._teacher.ask(batch)
        distances = []
        for adapter, pairing in zip(self.adapters, self._pairings, strict=True):
            found = _channels_first(answers.watched[pairing.student.node], pairing.student)
            wanted = _channels_first(told.watched[pairing.teacher.node], pairing.teacher)
            if self._bring:
                found, wanted = _to_one_size(found, wanted)
            found = adapter(found)
            real = self._answers.real_tokens(batch, found) if pairing.student.tokens else None
            if real is not None and wanted.shape[2:] == real.shape[1:]:
                found, wanted = _blank(found, real), _blank(wanted, real)
            distances.append(self._distance(found, wanted))
        loss = self._answers.measure(answers, batch, [told.outputs[0]])
        return loss + self._weight * torch.stack(distances).mean()


def watched_of(pairings: tuple[Pairing, ...]) -> tuple[str, ...]:
    """The teacher's side of the pairs, each node once."""
    return tuple(dict.fromkeys(pairing.teacher.node for pairing in pairings))


def _check(pairing: Pairing, kind: FeatureKind) -> None:
    """Attention needs places and the same number of axes, a hint the same number; relations need nothing."""
    one, other = pairing.student, pairing.teacher
    ranks = len(one.shape), len(other.shape)
    if kind == "relational" or (ranks[0] == ranks[1] and (1 if kind == "hint" else 2) <= ranks[0] <= max(_ADAPTERS)):
        return
    raise ModelpressError(
        "method_not_applicable",
        f"{one.node} of the student is {_tell(one.shape)} and {other.node} of the teacher {_tell(other.shape)}; "
        f"the loss `{kind}` cannot compare them.",
    )


def _adapter(pairing: Pairing) -> nn.Module:
    """A product that brings the student's channels to the teacher's (arXiv 1412.6550, section 2.2); none if equal."""
    one, other = pairing.student.channels, pairing.teacher.channels
    return nn.Identity() if one == other else _ADAPTERS[len(pairing.student.shape)](one, other)


def _channels_first(value: Tensor, place: Place) -> Tensor:
    return value.movedim(-1, 1) if place.tokens else value


def _blank(value: Tensor, real: Tensor) -> Tensor:
    """Values (n, channels, tokens) without the padding, enlarged so that means over all are those over real tokens."""
    share = real.to(value.dtype).mean(1, keepdim=True).clamp_min(1 / real.shape[1])
    return value * (real / share.sqrt())[:, None]


def _to_one_size(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n, channels, …places) of the larger resolution are averaged down to the smaller one, side by side."""
    if found.shape[2:] == wanted.shape[2:]:
        return found, wanted
    size = [min(sides) for sides in zip(found.shape[2:], wanted.shape[2:], strict=True)]
    average = _AVERAGES[len(size)]
    return average(found, size), average(wanted, size)


def _tell(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
