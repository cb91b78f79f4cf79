"""What all distillations share: train the student with its teachers, and without them where that is to be compared."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from pydantic import JsonValue

from core.compression.chapters import Chapter, results_of
from core.compression.context import Context, Emit
from core.compression.distill.comparison import Exam, Scores, examine, judge_teacher, open_exam
from core.compression.logits import logits_of
from core.compression.method import Report
from core.compression.train.losses import TaskObjective
from core.compression.train.objective import Objective
from core.compression.train.trainer import train
from core.data.dataset import Dataset
from core.messages import Message, MetricMessage
from core.network.network import Network
from core.specs.distill import Distillation

TRAINING, ALONE = "training", "alone"
_SCORES = "scores"


@final
@dataclass(frozen=True)
class Lesson:
    """A student, not yet trained, and what it is to make smaller; `before` is the network that the step was given."""

    student: Network
    before: Network
    objective: Objective
    spec: Distillation
    context: Context

    def learn(self) -> tuple[Network, Report]:
        """The trained student, and what was done."""
        dataset = self.context.needed_dataset()
        if not self.spec.compare:
            return self._train(dataset, self.context, {})
        exam = open_exam(dataset)
        scores, record = self._train_alone(dataset, exam)
        begin, end = self.context.span
        results = ({_SCORES: torch.from_numpy(scores)}, record)
        second = replace(
            self.context,
            checkpoint=Chapter(self.context.checkpoint, 1, results),
            span=((begin + end) / 2, end),
        )
        network, report = self._train(dataset, second, {ALONE: record})
        taught = examine(network, dataset, exam)
        finding = judge_teacher(scores, taught, exam, self.context.seed)
        self.context.log(finding.text)
        return network, replace(report, findings=(*report.findings, finding))

    def _train(self, dataset: Dataset, context: Context, plan: dict[str, JsonValue]) -> tuple[Network, Report]:
        trained = train(self.student, self.objective, dataset, self.spec, context)
        report = Report(
            layers=differing_layers(self.before, trained.network),
            findings=trained.findings,
            plan={TRAINING: trained.record, **plan},
        )
        return trained.network, report

    def _train_alone(self, dataset: Dataset, exam: Exam) -> tuple[Scores, dict[str, JsonValue]]:
        """Scores of the same student without a teacher, and what its training decided."""
        if (found := results_of(self.context.checkpoint)) is not None:
            return found[0][_SCORES].numpy(), found[1]
        self.context.log("The student is trained without a teacher first, to be compared.")
        begin, end = self.context.span
        recorded = (self.context.recorded or {}).get(ALONE)
        first = replace(
            self.context,
            checkpoint=Chapter(self.context.checkpoint, 0),
            span=(begin, (begin + end) / 2),
            # Its curves would be taken for those of the result.
            emit=_without_metrics(self.context.emit),
            recorded={TRAINING: dict(recorded)} if isinstance(recorded, Mapping) else None,
        )
        undo = logits_of(self.student, dataset.task)
        objective = TaskObjective(dataset.task, smoothing=self.spec.label_smoothing, undo=undo)
        trained = train(self.student, objective, dataset, self.spec, first)
        return examine(trained.network, dataset, exam), trained.record


def differing_layers(before: Network, after: Network) -> tuple[str, ...]:
    """Layers of `after` with a number that `before` has otherwise or not at all, in the order of the graph."""
    old = before.graph.state_dict()
    found: dict[str, None] = {}
    for name, value in after.graph.state_dict().items():
        if name not in old or not torch.equal(old[name], value):
            found[name.rpartition(".")[0]] = None
    return tuple(found)


def _without_metrics(emit: Emit) -> Emit:
    def pass_on(message: Message) -> None:
        if not isinstance(message, MetricMessage):
            emit(message)

    return pass_on
