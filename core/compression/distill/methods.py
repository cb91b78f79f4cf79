"""`distill.logits` and `distill.features`: their objectives, from what was asked for."""

from collections.abc import Mapping
from typing import final

import torch

from core.compression.context import Context
from core.compression.distill.answers import AnswerKind, AnswerLoss, AnswerObjective, Comparison
from core.compression.distill.features import FeatureKind, FeatureObjective, watched_of
from core.compression.distill.learning import Lesson
from core.compression.distill.pairing import Pairing, pair_by_depth, pair_by_name
from core.compression.distill.student import choose_student, teachers_of
from core.compression.distill.teachers import Teachers
from core.compression.method import Method, Report
from core.network.network import Network
from core.specs.distill import FeatureDistillation, LogitDistillation

# Weights of the labels and of the teachers. Hinton: the authors' advice that labels count little (section 2); DKD
# and DIST: those of the papers' experiments on CIFAR-100.
ANSWER_WEIGHTS: Mapping[AnswerKind, tuple[float, float]] = {"hinton": (0.1, 0.9), "dkd": (1.0, 1.0), "dist": (1.0, 2.0)}
# What brings the three to the size of a cross-entropy, where the student is half as wide as its teacher.
FEATURE_WEIGHTS: Mapping[FeatureKind, float] = {"hint": 10.0, "attention": 10.0, "relational": 1.0}


@final
class LogitMethod(Method[LogitDistillation]):
    """Carries out `distill.logits`."""

    def apply(self, network: Network, spec: LogitDistillation, context: Context) -> tuple[Network, Report]:
        """Train the student on what the teachers answer."""
        dataset = context.needed_dataset()
        student = choose_student(spec, network, context)
        teachers = Teachers(teachers_of(spec, network, context), dataset=dataset, log=context.log)
        usual = ANSWER_WEIGHTS[spec.loss]
        weights = (
            usual[0] if spec.label_weight is None else spec.label_weight,
            usual[1] if spec.teacher_weight is None else spec.teacher_weight,
        )
        comparison = Comparison(spec.loss, spec.temperature, spec.beta)
        loss = AnswerLoss(comparison, dataset.task, weights, smoothing=spec.label_smoothing, student=student)
        return Lesson(student, network, AnswerObjective(teachers, loss), spec, context).learn()


@final
class FeatureMethod(Method[FeatureDistillation]):
    """Carries out `distill.features`."""

    def apply(self, network: Network, spec: FeatureDistillation, context: Context) -> tuple[Network, Report]:
        """Train the student on the teacher's inner values."""
        dataset = context.needed_dataset()
        student = choose_student(spec, network, context)
        (teacher,) = teachers_of(spec, network, context)
        if spec.pairs:
            pairings = pair_by_name(student, teacher, spec.pairs)
        else:
            pairings = pair_by_depth(student, teacher, flat=spec.loss != "attention")
        context.log(f"Compared are {_tell(pairings)}.")
        teachers = Teachers((teacher,), watched_of(pairings), dataset=dataset, log=context.log)
        outer = (spec.label_weight, spec.answer_weight)
        answers = AnswerLoss(Comparison(), dataset.task, outer, smoothing=spec.label_smoothing, student=student)
        weight = FEATURE_WEIGHTS[spec.loss] if spec.feature_weight is None else spec.feature_weight
        with torch.random.fork_rng(devices=()):
            # Adapters begin with drawn weights.
            torch.manual_seed(context.seed)
            objective = FeatureObjective(teachers, pairings, spec.loss, weight=weight, answers=answers)
        return Lesson(student, network, objective, spec, context).learn()


def _tell(pairings: tuple[Pairing, ...]) -> str:
    return ", ".join(
        f"{pairing.student.node} ({_shape(pairing.student.shape)}) with {pairing.teacher.node} "
        f"({_shape(pairing.teacher.shape)})"
        for pairing in pairings
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
