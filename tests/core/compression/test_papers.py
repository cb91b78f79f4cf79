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
from tests.api.dashboard.samples import verdict
from tests.core.services.makers import described_model

DEMO = Path(__file__).resolve().parents[3] / "demo"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_program_of_the_readme_runs(runtime: str, tmp_path: Path) -> None:
    request = RunJob(
        job="job_1",
        recipe=Recipe.model_validate({"steps": [{"method": "quantize.linear"}]}),
        target=Target(),
        constraints=Constraints(),
        seed=0,
        model=(),
        lock_path="",
    )
    measured = verdict()
    conditions = measured.conditions.model_copy(update={"runtime": f"{runtime} 1"})
    told = measured.model_copy(update={"conditions": conditions})
    shutil.copy(DEMO / "lenet5.onnx", tmp_path / "model.onnx")
    Papers(request, described_model(), (Report(layers=()),)).write(tmp_path, told, [], ("model.onnx",))
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert f"import numpy as np, {runtime}" in code[1]
    # OpenVINO's own package reports its import where it may.
    program = f"import sys; sys.modules['openvino_telemetry'] = None\n{code[1]}\nprint(outputs[0].shape)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "(1, 10)\n"
