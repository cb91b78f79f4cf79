"""What holds for every method: its spec, its page, and a whole job by its own example."""

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from core.compression.pipeline import run
from core.description import DatasetSpec, InputMapping, SplitArrays
from core.errors import ModelpressError
from core.messages import ArtifactMessage, CheckpointMessage, Message, RunJob, StagedFile
from core.specs.base import Spec
from core.specs.methods import METHODS, method_name
from core.specs.recipe import Constraints, Recipe, Target
from core.specs.train import Training

ROOT = Path(__file__).parents[2]
DATA = DatasetSpec(
    task="classification",
    inputs={"x": InputMapping(layout="NHW", scale=1 / 255, mean=(0.5,), std=(0.5,))},
    splits={"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")},
)

# Enough updates to change every weight.
SHORT = {"steps": 20}

every_method = pytest.mark.parametrize("kind", METHODS, ids=method_name)


def staged(path: Path) -> StagedFile:
    content = path.read_bytes()
    return StagedFile(
        path=str(path), filename=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )


def job(kind: type[Spec], work: Path, model: Path) -> RunJob:
    return RunJob(
        job="job_methods",
        recipe=Recipe.model_validate({"steps": [kind.example | (SHORT if issubclass(kind, Training) else {})]}),
        target=Target(batch_sizes=(1,)),
        constraints=Constraints(),
        seed=1,
        model=(staged(model),),
        dataset=(staged(ROOT / "demo" / "mnist.npz"),),
        dataset_spec=DATA,
        lock_path=str(work / "lock"),
    )


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
def test_a_job_gives_the_same_file_twice_and_a_stock_runtime_loads_it(kind, tmp_path):
    found = []
    for name in ("first", "second"):
        work = tmp_path / name
        work.mkdir()
        messages: dict[type[Message], list[Message]] = defaultdict(list)
        request = job(kind, work, ROOT / "demo" / "lenet5.onnx")
        verdict = run(request, lambda message, kept=messages: kept[type(message)].append(message), work)
        kept = messages[ArtifactMessage] + messages[CheckpointMessage]
        told = {file.path for message in kept for file in message.files}
        assert told == {str(path.relative_to(work / "out")) for path in (work / "out").rglob("*") if path.is_file()}
        session = onnxruntime.InferenceSession(work / "out" / "model.onnx", providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {session.get_inputs()[0].name: np.zeros((3, 1, 28, 28), np.float32)})
        assert answer.shape == (3, 10)
        assert verdict.result.quality is not None
        found.append((work / "out" / "model.onnx").read_bytes())
    assert found[0] == found[1]


@every_method
def test_a_broken_model_ends_in_a_typed_error(kind, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((ROOT / "demo" / "lenet5.onnx").read_bytes()[:5000])
    with pytest.raises(ModelpressError) as caught:
        run(job(kind, tmp_path, broken), lambda message: None, tmp_path)
    assert caught.value.step == "prepare"
