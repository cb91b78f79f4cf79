"""A recipe of three steps through the pipeline: trained, quantized, trained on the grid; and a model of batch 1."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.compression.pipeline import run
from core.compression.train import TRAIN
from core.messages import Message, MetricMessage, RunJob, StagedFile, StepMessage
from core.specs.recipe import Constraints, Recipe, Target
from core.specs.train import Finetune

from .conftest import SHAPES


def staged(path: Path) -> StagedFile:
    content = path.read_bytes()
    return StagedFile(
        path=str(path), filename=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )


@pytest.mark.slow
def test_a_network_is_trained_quantized_and_trained_on_its_grid(small_file, shapes_file, tmp_path):
    learn = {"method": "finetune", "epochs": 8, "batch_size": 32}
    steps = [learn | {"lr": 0.01}, {"method": "quantize.linear"}, learn | {"lr": 0.001, "epochs": 3}]
    request = RunJob(
        job="job_recipe",
        recipe=Recipe.model_validate({"steps": steps}),
        target=Target(batch_sizes=(1,)),
        constraints=Constraints(),
        seed=1,
        model=(staged(small_file),),
        dataset=(staged(shapes_file),),
        dataset_spec=SHAPES,
        lock_path=str(tmp_path / "lock"),
    )
    told: list[Message] = []
    verdict = run(request, told.append, tmp_path)
    encodings = {layer.name: layer.encoding for layer in verdict.layers}
    assert "int" in encodings["conv"]
    assert "int" in encodings["fc"]
    qualities = [each.quality for each in told if isinstance(each, StepMessage) and each.quality is not None]
    assert len(qualities) == 3
    # No step of training leaves the network worse on validation than it was.
    assert qualities[2] >= qualities[1]
    assert verdict.result.quality is not None
    assert verdict.result.quality.value > 0.85
    assert {each.name for each in told if isinstance(each, MetricMessage) and each.at is not None} >= {"loss", "lr"}


def test_a_network_of_one_sample_at_a_time_is_trained_sample_by_sample(small, shapes, context):
    fixed = replace(
        small,
        inputs=tuple(each.model_copy(update={"shape": (1, *each.shape[1:])}) for each in small.inputs),
        batch="fixed",
    )
    spec = Finetune(steps=4, batch_size=8, lr=0.01)
    network, report = TRAIN[Finetune].apply(fixed, spec, context(shapes))
    assert report.plan["training"]["micro_batch"] == 1
    assert report.plan["training"]["batch_size"] == 8
    assert network.inputs == fixed.inputs


def test_a_network_that_ends_in_a_softmax_learns_as_it_would_without(small, likely, shapes, context, told):
    spec = Finetune(steps=20, batch_size=16, lr=0.05, optimiser="sgd")
    plain, _ = TRAIN[Finetune].apply(small, spec, context(shapes))
    wanted = [(each.name, each.value) for each in told if isinstance(each, MetricMessage)]
    told.clear()
    found, _ = TRAIN[Finetune].apply(likely, spec, context(shapes))
    seen = [(each.name, each.value) for each in told if isinstance(each, MetricMessage)]
    assert [name for name, _ in seen] == [name for name, _ in wanted]
    assert [value for _, value in seen] == pytest.approx([value for _, value in wanted], rel=1e-3)
    (batch,) = shapes.batches("evaluation", 1000)
    inputs = tuple(batch.inputs.values())
    with torch.no_grad():
        torch.testing.assert_close(found.graph(*inputs), plain.graph(*inputs).softmax(1), rtol=1e-3, atol=1e-4)
