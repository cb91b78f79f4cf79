"""The README of a result holds a program that runs the file in the runtime that it was measured in."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.compression.method import Report
from core.compression.papers import Papers
from core.messages import RunJob
from core.specs.recipe import Constraints, Recipe, Target
from core.verdict import CurvePoint
from tests.api.dashboard.samples import verdict
from tests.core.services.makers import described_model

DEMO = Path(__file__).resolve().parents[3] / "demo"


REQUEST = RunJob(
    job="job_1",
    recipe=Recipe.model_validate({"steps": [{"method": "quantize.linear"}]}),
    target=Target(),
    constraints=Constraints(),
    seed=0,
    model=(),
    lock_path="",
)


def test_the_readme_says_what_was_pruned(tmp_path: Path) -> None:
    told = verdict()
    points = (CurvePoint(kept=0.5, loss_increase=0.25), CurvePoint(kept=0.25, loss_increase=None))
    curve = told.layers[0].sensitivity.model_copy(update={"curve": points})
    cut = told.layers[1].model_copy(update={"shape": "25×20×5×5", "shape_before": "50×20×5×5"})
    told = told.model_copy(update={"layers": (told.layers[0].model_copy(update={"sensitivity": curve}), cut)})
    Papers(REQUEST, described_model(), (Report(layers=()),)).write(tmp_path, told, [], ("model.onnx",))
    readme = (tmp_path / "README.md").read_text()
    assert "| layer | shape | loss at 50% | loss at 25% |" in readme
    assert "| conv1 | 1→20, 5×5 | +0.2500 | – |" in readme
    assert "| conv2 | 50×20×5×5 → 25×20×5×5 | – | – |" in readme
    assert "`plan.json`, as `outputs` of the step" in readme


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_program_of_the_readme_runs(runtime: str, tmp_path: Path) -> None:
    measured = verdict()
    conditions = measured.conditions.model_copy(update={"runtime": f"{runtime} 1"})
    told = measured.model_copy(update={"conditions": conditions})
    shutil.copy(DEMO / "lenet5.onnx", tmp_path / "model.onnx")
    Papers(REQUEST, described_model(), (Report(layers=()),)).write(tmp_path, told, [], ("model.onnx",))
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert f"import numpy as np, {runtime}" in code[1]
    # OpenVINO's own package reports its import where it may.
    program = f"import sys; sys.modules['openvino_telemetry'] = None\n{code[1]}\nprint(outputs[0].shape)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "(1, 10)\n"
