"""A whole job with other models in it, from their files to the result's file and verdict."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from core.compression.pipeline import run
from core.errors import ModelpressError
from core.messages import RunJob
from core.specs.recipe import Constraints, Recipe, Target
from tests.conformance.test_methods import staged
from tests.core.compression.conftest import IMAGES, SHAPE, save


class Plain(nn.Module):
    """Another network for the same images, with other names."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2)
        self.stem = nn.Linear(6 * 25, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.stem(torch.relu(self.conv(pixels)).flatten(1))


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    return save(Plain(), torch.randn(2, *SHAPE), tmp_path / "plain.pt2")


def job(model: Path, data: Path, work: Path, *, other: Path, **step: object) -> RunJob:
    return RunJob(
        job="job_distil",
        recipe=Recipe.model_validate({"steps": [{"method": "distill.logits", "steps": 4, "lr": 1e-3, **step}]}),
        target=Target(batch_sizes=(1,)),
        constraints=Constraints(),
        seed=0,
        model=(staged(model),),
        dataset=(staged(data),),
        dataset_spec=IMAGES,
        models={"mdl_1": (staged(other),)},
        lock_path=str(work / "lock"),
    )


@pytest.mark.slow
def test_another_student_takes_the_place_of_the_model(residual_file, images_file, plain_file, tmp_path):
    asked = job(residual_file, images_file, tmp_path, other=plain_file, student="mdl_1")
    verdict = run(asked, lambda _: None, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    # Who used the original can use the result.
    assert [each.name for each in session.get_inputs()] == ["x"]
    rows = {layer.name: layer for layer in verdict.layers}
    assert (rows["fc1"].encoding, rows["fc1"].bytes) == ("removed", 0)
    assert (rows["conv"].bytes_before, rows["conv"].bytes) == (0, 4 * (6 * 3 * 9 + 6))
    # A convolution in the original, a product in the student.
    assert (rows["stem"].kind, rows["stem"].shape) == ("linear", "4×150")
    assert verdict.result.parameters == sum(parameter.numel() for parameter in Plain().parameters())


def test_another_teacher_must_answer_alike(residual_file, images_file, tmp_path):
    torch.manual_seed(4)
    teacher = save(Plain(classes=7), torch.randn(2, *SHAPE), tmp_path / "seven.pt2")
    with pytest.raises(ModelpressError, match=r"×7;.*×4") as caught:
        run(job(residual_file, images_file, tmp_path, other=teacher, teacher="mdl_1"), lambda _: None, tmp_path)
    assert (caught.value.code, caught.value.step) == ("method_not_applicable", "prepare")
