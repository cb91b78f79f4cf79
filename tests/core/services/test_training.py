"""What the dry run says of steps that learn from labels."""

from typing import Any

import pytest

from core.database.session import transaction
from core.description import DatasetDescription, SplitDescription
from core.services import jobs
from tests.core.services.makers import ask, described_dataset, make_dataset, make_model


def objections(tenant: str, description: DatasetDescription | None, **settings: Any) -> list[str]:
    dataset = None if description is None else make_dataset(tenant, description)
    steps = [{"method": "finetune", **settings}]
    with transaction() as session:
        plan = jobs.plan(session, tenant, ask(make_model(tenant), dataset, recipe={"steps": steps}))
    return [each.text for each in plan.objections if each.severity == "blocks"]


def test_labelled_samples_are_needed_where_training_looks(tenant: str) -> None:
    assert objections(tenant, described_dataset()) == []
    (text,) = objections(tenant, None)
    assert "give a data set" in text
    splits = {
        "train": SplitDescription(samples=500, labelled=False),
        "evaluation": SplitDescription(samples=200, labelled=True),
    }
    (text,) = objections(tenant, described_dataset(splits=splits))
    assert "the train split has none" in text


def test_training_and_drops_within_a_prune_need_what_they_would_alone(tenant: str) -> None:
    rounds = {"method": "prune.weights", "schedule": {"rounds": 2, "train": {"method": "finetune"}}}
    assert objections(tenant, described_dataset(), **rounds) == []
    drop = {"method": "prune.weights", "keep": {"max_drop": 0.01}}
    for asked in (rounds, drop):
        (text,) = objections(tenant, None, **asked)
        assert "give a data set" in text
    splits = {"train": SplitDescription(samples=500, labelled=False)}
    (text,) = objections(tenant, described_dataset(splits=splits), **rounds)
    assert "needs labels" in text
    assert objections(tenant, described_dataset(splits=splits), **drop) == []


@pytest.mark.parametrize("task", ["embedding", "none"])
def test_not_every_task_can_be_learnt(tenant: str, task: str) -> None:
    (text,) = objections(tenant, described_dataset(task=task))
    assert task in text


def test_training_narrows_no_layer(tenant: str) -> None:
    model, data = make_model(tenant), make_dataset(tenant)

    def size(*methods: str) -> int:
        steps = [{"method": method} for method in methods]
        with transaction() as session:
            return jobs.plan(session, tenant, ask(model, data, recipe={"steps": steps})).bytes.low

    assert size("finetune") > size("quantize.linear") == size("quantize.linear", "finetune")
