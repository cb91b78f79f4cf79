"""What holds for every method: its spec, its page, and a whole job by its own example."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import JsonValue

from core.compression.context import Context
from core.compression.material import Material
from core.compression.pipeline import run
from core.compression.preparation import Prepared, prepare
from core.compression.replay import read_plan, seed_of_step
from core.errors import ModelpressError
from core.messages import ArtifactMessage, CheckpointMessage, Message, RunJob
from core.specs.base import Spec
from core.specs.methods import METHODS, method_name
from core.specs.recipe import Recipe
from core.specs.train import Training
from tests.core.compression.small_job import ROOT, SIDE, SmallJob, staged, write_small_job

# Enough updates to change every weight.
SHORT = {"steps": 20}

every_method = pytest.mark.parametrize("kind", METHODS, ids=method_name)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    return write_small_job(tmp_path_factory.mktemp("small"))


def example(kind: type[Spec]) -> dict[str, JsonValue]:
    return kind.example | (SHORT if issubclass(kind, Training) else {})


def take_step(request: RunJob, prepared: Prepared, recorded: Mapping[str, JsonValue] | None = None) -> Material:
    """The step of a job as the pipeline takes it, between what comes before and after it."""
    (spec,) = request.recipe.steps
    context = Context(
        step=spec.method,
        index=0,
        dataset=prepared.dataset,
        target=request.target,
        constraints=request.constraints,
        seed=request.seed,
        emit=lambda message: None,
        recorded=recorded,
    )
    torch.manual_seed(seed_of_step(request.seed, 1))
    return prepared.material.take(spec, context)[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_names_are_unique_and_of_their_family():
    names = [method_name(kind) for kind in METHODS]
    assert len(set(names)) == len(names)
    # A name without a dot is that of the family's main method.
    families = [name.partition(".") for name in names]
    assert all(family == kind.family for (family, dot, _), kind in zip(families, METHODS, strict=True) if dot)


@every_method
def test_a_spec_explains_itself(kind):
    fields = {name: field for name, field in kind.model_fields.items() if name != "method"}
    assert kind.title
    assert all(field.description for field in fields.values())
    assert (ROOT / "docs" / "methods" / f"{method_name(kind)}.md").exists()


@every_method
def test_a_default_spec_survives_being_sent(kind):
    recipe = Recipe(steps=(kind(),))
    assert Recipe.model_validate_json(recipe.model_dump_json(exclude_unset=True)) == recipe
    with pytest.raises(ValueError, match="nonsense"):
        kind.model_validate({**kind.example, "nonsense": 1})


@every_method
def test_a_job_gives_the_same_file_again_and_a_stock_runtime_loads_it(kind, small: SmallJob, tmp_path):
    messages: dict[type[Message], list[Message]] = defaultdict(list)
    request, out = small.ask(tmp_path, example(kind)), tmp_path / "out"
    verdict = run(request, lambda message: messages[type(message)].append(message), tmp_path)
    told = {file.path for message in messages[ArtifactMessage] + messages[CheckpointMessage] for file in message.files}
    assert told == {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: np.zeros((3, 1, SIDE, SIDE), np.float32)})
    assert answer.shape == (3, 10)
    assert verdict.result.quality is not None

    # What decides over the files comes before the measuring; both runs get the same prepared material.
    folders = {name: tmp_path / name for name in ("scratch", "again", "saved", "replayed")}
    for folder in folders.values():
        folder.mkdir()
    prepared = prepare(request, folders["scratch"])
    again = take_step(request, prepared)
    for name in again.write(folders["again"], lambda share, message: None):
        assert (folders["again"] / name).read_bytes() == (out / name).read_bytes(), name
    (recorded,) = read_plan(request.model_copy(update={"plan": staged(out / "plan.json")}), lambda message: None) or ()
    again.save(folders["saved"])
    take_step(request, prepared, recorded).save(folders["replayed"])
    assert contents(folders["saved"]) == contents(folders["replayed"])


@every_method
def test_a_broken_model_ends_in_a_typed_error(kind, small: SmallJob, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(small.model.read_bytes()[:2000])
    with pytest.raises(ModelpressError) as caught:
        run(small.ask(tmp_path, example(kind), model=[staged(broken)]), lambda message: None, tmp_path)
    assert caught.value.step == "prepare"
