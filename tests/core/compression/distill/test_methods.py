"""Whole distillations of small networks."""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor

from core.compression.context import Context, StepCheckpoint
from core.compression.distill.methods import FeatureMethod, LogitMethod
from core.compression.method import Report
from core.data.dataset import Dataset, open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.messages import MetricMessage
from core.network.network import Network
from core.network.surgery import thin
from core.specs.distill import FeatureDistillation, LogitDistillation
from tests.core.compression.distill.conftest import correlation, distance

HALF = {"width": 0.5}
SHORT = {"epochs": 6, "lr": 2e-3, "batch_size": 32, "augment": "none"}


class WorkerDiedError(Exception):
    """What a killed worker looks like from inside."""


class Kept(StepCheckpoint):
    """A checkpoint in memory, after which the worker dies once."""

    def __init__(self, after: int = 10**6) -> None:
        self.state: tuple[dict[str, Tensor], dict[str, JsonValue]] | None = None
        self.kept, self.after = 0, after

    def restore(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]] | None:
        return self.state

    def due(self) -> bool:
        return True

    def keep(self, tensors: Any, facts: Any) -> None:
        self.state = {name: tensor.clone() for name, tensor in tensors.items()}, dict(facts)
        self.kept += 1
        if self.kept == self.after:
            raise WorkerDiedError


def weights_of(network: Network) -> dict[str, Tensor]:
    return dict(network.graph.state_dict())


def same(one: Network, other: Network) -> bool:
    pairs = zip(weights_of(one).items(), weights_of(other).items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.fixture
def lesson(context: Callable[..., Context], teacher: Network, data: Dataset) -> Callable[..., tuple[Network, Report]]:
    def run(changes: dict[str, Any] | None = None, **settings: Any) -> tuple[Network, Report]:
        given = {"step": "distill.logits", "original": teacher, "dataset": data, **(changes or {})}
        spec = LogitDistillation(**{**SHORT, "student": HALF, **settings})
        return LogitMethod().apply(teacher, spec, replace(context(), **given))

    return run


@pytest.mark.parametrize("loss", ["hinton", "dkd", "dist"])
def test_a_thin_student_comes_near_its_teacher(lesson, teacher, data, loss):
    student, report = lesson(loss=loss)
    start = thin(teacher, 0.5)
    assert [tuple(tensor.shape) for tensor in weights_of(student).values()] == [
        tuple(tensor.shape) for tensor in weights_of(start).values()
    ]
    if loss == "dist":
        # It asks for correlation, whatever the size of the answers.
        assert correlation(student, teacher, data) > correlation(start, teacher, data) + 0.15
    else:
        assert distance(student, teacher, data) < 0.7 * distance(start, teacher, data)
    assert set(report.layers) == {name.rpartition(".")[0] for name in weights_of(student)}
    assert report.plan["training"]["steps_done"] > 0


def test_unlabelled_samples_are_enough(lesson, file, teacher):
    bare = DatasetSpec(task="classification", splits={"train": SplitArrays(x="x"), "evaluation": SplitArrays(x="tx")})
    dataset = open_dataset([file], bare, teacher.inputs)
    student, _ = lesson({"dataset": dataset})
    assert distance(student, teacher, dataset) < 0.7 * distance(thin(teacher, 0.5), teacher, dataset)
    with pytest.raises(ModelpressError, match="needs labels"):
        lesson({"dataset": dataset}, compare=True)


def test_two_teachers_and_another_student_are_taken_by_their_ids(lesson, teacher):
    given = {"mdl_1": thin(teacher, 0.75), "mdl_2": thin(teacher, 0.5)}
    student, _ = lesson({"models": given}, teacher=("original", "mdl_1"), student="mdl_2")
    assert [tensor.shape for tensor in weights_of(student).values()] == [
        tensor.shape for tensor in weights_of(given["mdl_2"]).values()
    ]
    assert not same(student, given["mdl_2"])


def test_the_same_seed_gives_the_same_student(lesson):
    assert same(lesson(epochs=1)[0], lesson(epochs=1)[0])


def test_a_comparison_says_whether_the_teacher_helped(lesson, told):
    student, report = lesson(compare=True, epochs=1)
    (finding,) = [each for each in report.findings if each.code.startswith("teacher_")]
    assert "200 evaluation samples" in finding.text
    assert "alone" in report.plan
    curve = [each for each in told if isinstance(each, MetricMessage)]
    told.clear()
    # Being compared changes nothing, and the curves are those of the taught student.
    assert same(student, lesson(epochs=1)[0])
    assert curve == [each for each in told if isinstance(each, MetricMessage)]


def with_softmax(network: Network) -> Network:
    graph = copy.deepcopy(network.graph)
    output = next(node for node in graph.graph.nodes if node.op == "output")
    with graph.graph.inserting_before(output):
        likely = graph.graph.call_function(torch.ops.aten.softmax.int, (output.args[0], 1))
    output.args = (likely,)
    graph.recompile()
    return replace(network, graph=graph)


def test_neither_student_is_at_a_loss_where_answers_are_probabilities(lesson, teacher):
    def compare(network: Network) -> list[float]:
        student = thin(network, 0.5)
        given = {"original": network, "models": {"mdl_1": student}}
        _, report = lesson(given, student="mdl_1", compare=True, epochs=12, early_stopping=0)
        (text,) = [each.text for each in report.findings if each.code.startswith("teacher_")]
        return [float(each) for each in re.findall(r"0\.\d{4}(?= with| alone)", text)]

    wanted = compare(teacher)
    assert len(wanted) == 2
    assert compare(with_softmax(teacher)) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
def test_a_comparison_goes_on_where_it_was_interrupted(lesson, share):
    counting = Kept()
    whole, report = lesson({"checkpoint": counting}, compare=True, epochs=1)
    checkpoint = Kept(after=math.ceil(counting.kept * share))
    with pytest.raises(WorkerDiedError):
        lesson({"checkpoint": checkpoint}, compare=True, epochs=1)
    resumed, again = lesson({"checkpoint": checkpoint}, compare=True, epochs=1)
    assert same(whole, resumed)
    assert [finding.text for finding in again.findings] == [finding.text for finding in report.findings]


@pytest.mark.parametrize("loss", ["hint", "attention", "relational"])
def test_inner_values_teach(context, teacher, data, loss):
    spec = FeatureDistillation(**{**SHORT, "student": HALF, "loss": loss, "label_weight": 0})
    made = replace(context(), step="distill.features", original=teacher, dataset=data)
    student, _ = FeatureMethod().apply(teacher, spec, made)
    assert distance(student, teacher, data) < 0.7 * distance(thin(teacher, 0.5), teacher, data)
    # Adapters are dropped.
    assert list(weights_of(student)) == list(weights_of(thin(teacher, 0.5)))


def test_layers_are_paired_by_name(context, teacher, data, told):
    spec = FeatureDistillation(**{**SHORT, "epochs": 1, "student": HALF, "pairs": ("one.conv2=two.conv2",)})
    FeatureMethod().apply(teacher, spec, replace(context(), original=teacher, dataset=data))
    assert any("one_conv2 (4×12×12) with two_conv2 (16×6×6)" in getattr(each, "text", "") for each in told)
