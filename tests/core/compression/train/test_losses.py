"""The losses of tasks against their formulas, and that what is not judged has no part in them."""

import math

import pytest
import torch

from core.compression.train.losses import LOSSES, TaskObjective
from core.compression.train.objective import Answers, TrainingBatch
from core.data.tokens import IGNORED
from core.errors import ModelpressError
from core.specs.train import LEARNT_TASKS


def loss(task, found, labels, split="train", **settings):
    batch = TrainingBatch((found,), labels, torch.arange(len(found)), split)
    return float(TaskObjective(task, **settings)(Answers((found,), {}), batch))


def test_there_is_a_loss_for_every_task_that_a_plan_lets_pass():
    assert set(LOSSES) == set(LEARNT_TASKS)


def test_cross_entropy_and_its_smoothing():
    found, labels = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2])
    logs = found.log_softmax(1)
    plain = -(logs[0, 0] + logs[1, 2]) / 2
    assert loss("classification", found, labels) == pytest.approx(float(plain))
    smoothed = 0.9 * plain - 0.1 * logs.mean()
    assert loss("classification", found, labels, smoothing=0.1) == pytest.approx(float(smoothed))
    # Samples that are judged, not learnt from, have their labels as they are.
    assert loss("classification", found, labels, "validation", smoothing=0.1) == pytest.approx(float(plain))


def test_every_sample_weighs_the_same_however_many_of_its_tokens_are_judged():
    found = torch.zeros(2, 3, 4)
    found[0, 0, 1] = 5.0
    labels = torch.tensor([[1, IGNORED, IGNORED], [0, 1, 2]])
    first = -float(found[0, 0].log_softmax(0)[1])
    assert loss("token_classification", found, labels) == pytest.approx((first + math.log(4)) / 2)
    empty = torch.full((1, 3), IGNORED)
    assert loss("token_classification", found[:1], empty) == 0


def test_each_class_for_itself():
    found, labels = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 0.0]])
    wanted = (math.log(2) + math.log1p(math.exp(3))) / 2
    assert loss("multi_label", found, labels) == pytest.approx(wanted)


def test_probabilities_are_taken_back_to_logits_first():
    found, labels = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 0.0]])
    wanted = loss("multi_label", found, labels)
    assert loss("multi_label", found.sigmoid(), labels, undo=torch.logit) == pytest.approx(wanted)


def test_squared_error_and_hubers():
    found, labels = torch.tensor([[0.5], [4.0]]), torch.tensor([0.0, 0.0])
    assert loss("regression", found, labels) == pytest.approx((0.25 + 16) / 2)
    assert loss("regression", found, labels, robust=True) == pytest.approx((0.125 + 3.5) / 2)


def test_what_cannot_be_learnt_is_said():
    with pytest.raises(ModelpressError, match="embedding"):
        TaskObjective("embedding")
    with pytest.raises(ModelpressError, match="no labels"):
        loss("classification", torch.zeros(1, 2), None)
