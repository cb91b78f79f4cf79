"""The runner as the supervisor starts it: a fresh isolated interpreter, a request file, JSON lines."""

import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from core.errors import CATALOGUE
from core.messages import MESSAGE, ArtifactMessage, ErrorMessage, JobDone, Message, ProgressMessage, StepMessage
from runner.channel import Channel
from runner.dispatch import answer

DEMO = Path(__file__).parents[2] / "demo"
DATASET = {
    "task": "classification",
    "inputs": {"x": {"layout": "NHW", "scale": 1 / 255, "mean": [0.5], "std": [0.5]}},
    "splits": {"train": {"x": "x_train", "y": "y_train"}, "evaluation": {"x": "x_test", "y": "y_test"}},
}


def staged(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "path": str(path),
        "filename": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }


def run(work: Path, request: dict[str, Any] | str) -> list[Message]:
    """Every line of standard output must be a message, and the exit code 0 also after an error."""
    work.mkdir(exist_ok=True)
    (work / "request.json").write_text(request if isinstance(request, str) else json.dumps(request))
    command = [sys.executable, "-I", "-m", "runner", str(work)]
    environment = {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, capture_output=True, check=False, cwd="/", env=environment, timeout=110)
    assert answer.returncode == 0, answer.stderr.decode()[-2000:]
    return [MESSAGE.validate_json(line) for line in answer.stdout.splitlines()]


def run_here(work: Path, request: dict[str, Any]) -> list[Message]:
    """The same in this process, which has loaded torch already: for what the answer says."""
    work.mkdir(exist_ok=True)
    (work / "request.json").write_text(json.dumps(request))
    with (work / "lines").open("wb", buffering=0) as lines, warnings.catch_warnings():
        answer(work, Channel(lines.fileno()))
    return [MESSAGE.validate_json(line) for line in (work / "lines").read_bytes().splitlines()]


def job(work: Path, *, model_files: tuple[Path, ...] = (DEMO / "lenet5.onnx",), **changes: Any) -> dict[str, Any]:
    request = {
        "kind": "run_job",
        "job": "job_1",
        "recipe": {"steps": [{"method": "quantize.linear", "calibration": {"samples": 128}}]},
        "target": {"batch_sizes": [1]},
        "constraints": {},
        "seed": 0,
        "model": [staged(path) for path in model_files],
        "dataset": [staged(DEMO / "mnist.npz")],
        "dataset_spec": DATASET,
        "lock_path": str(work / "lock"),
    }
    return {**request, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Message]]:
    work = tmp_path_factory.mktemp("job with a space")
    return work, run(work, job(work))


def test_a_job_gives_a_smaller_file_and_a_verdict(finished: tuple[Path, list[Message]]) -> None:
    work, messages = finished
    assert isinstance(messages[-1], JobDone)
    verdict = messages[-1].verdict
    assert verdict.change.size_ratio > 3.8
    assert verdict.satisfied
    assert verdict.change.quality is not None
    assert verdict.change.quality.low > -0.02
    file = work / "out" / "model.onnx"
    assert sum(verdict.itemised_bytes.model_dump().values()) == file.stat().st_size == verdict.result.bytes
    assert verdict.reproduce.artifact_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [layer.encoding for layer in verdict.layers] == ["int8"] * 4


def test_steps_are_told_in_order_and_progress_only_grows(finished: tuple[Path, list[Message]]) -> None:
    steps = [m for m in finished[1] if isinstance(m, StepMessage)]
    names = ["prepare", "quantize.linear", "export", "measure"]
    assert [(m.position, m.name, m.state.value) for m in steps] == [
        (position, name, state) for position, name in enumerate(names) for state in ("running", "succeeded")
    ]
    assert steps[3].quality is not None
    fractions = [m.fraction for m in finished[1] if isinstance(m, ProgressMessage)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_weights_in_another_file_give_the_same_result(finished: tuple[Path, list[Message]], tmp_path: Path) -> None:
    graph = tmp_path / "net.onnx"
    onnx.save(onnx.load(DEMO / "lenet5.onnx"), graph, save_as_external_data=True, location="net.data")
    work = tmp_path / "job"
    messages = run_here(work, job(work, model_files=(graph, tmp_path / "net.data")))
    assert isinstance(messages[-1], JobDone), messages[-1]
    assert (work / "out" / "model.onnx").read_bytes() == (finished[0] / "out" / "model.onnx").read_bytes()


def test_all_artifacts_are_announced_and_hold_no_path(finished: tuple[Path, list[Message]]) -> None:
    work, messages = finished
    announced = {m.artifact_kind: m.files[0].path for m in messages if isinstance(m, ArtifactMessage)}
    assert set(announced) == {
        "model.onnx",
        "model.pt2",
        "model.safetensors",
        "report.json",
        "recipe.json",
        "plan.json",
        "README.md",
        "log",
    }
    for path in announced.values():
        assert str(work).encode() not in (work / "out" / path).read_bytes()


@pytest.mark.slow
def test_the_same_job_gives_the_same_bytes(finished: tuple[Path, list[Message]], tmp_path: Path) -> None:
    run(tmp_path / "again", job(tmp_path))
    for name in ("model.onnx", "model.pt2", "model.safetensors", "plan.json", "recipe.json"):
        assert (tmp_path / "again" / "out" / name).read_bytes() == (finished[0] / "out" / name).read_bytes(), name


@pytest.mark.slow
def test_a_pt2_upload_gives_an_onnx_file_too(tmp_path: Path) -> None:
    messages = run_here(tmp_path, job(tmp_path, model_files=(DEMO / "lenet5.pt2",)))
    assert isinstance(messages[-1], JobDone)
    assert messages[-1].verdict.original.bytes == (DEMO / "lenet5.pt2").stat().st_size
    assert messages[-1].verdict.change.size_ratio > 3.8
    onnx.checker.check_model(onnx.load(tmp_path / "out" / "model.onnx"))


def failure(messages: list[Message]) -> ErrorMessage:
    assert isinstance(messages[-1], ErrorMessage), messages[-1]
    assert messages[-1].code in CATALOGUE
    return messages[-1]


def test_inspecting_what_is_no_model_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing of the kind")
    error = failure(run(tmp_path, {"kind": "inspect_model", "files": [staged(tmp_path / "x.onnx")]}))
    assert error.code in ("unknown_format", "corrupt_file")


def test_a_job_without_its_data_says_so_with_the_step(tmp_path: Path) -> None:
    spec = {**DATASET, "splits": {"evaluation": {"x": "x_test", "y": "y_test"}}}
    error = failure(run_here(tmp_path, job(tmp_path, dataset_spec=spec)))
    assert (error.code, error.step) == ("missing_data", "quantize.linear")


def test_a_job_without_data_draws_its_inputs_and_says_so(tmp_path: Path) -> None:
    messages = run_here(tmp_path, job(tmp_path, dataset=[], dataset_spec=None))
    assert isinstance(messages[-1], JobDone)
    verdict = messages[-1].verdict
    assert verdict.change.size_ratio > 3.8
    assert verdict.result.quality is not None
    assert verdict.result.quality.metric == "relative_error"
    assert 0 < verdict.result.quality.value < 0.2
    codes = [finding.code for finding in verdict.findings]
    told = next(finding.text for finding in verdict.findings if finding.code == "synthetic_data_only")
    assert "Assumed: `x` is normal noise of mean 0 and deviation 1" in told
    assert not {"no_labels", "no_evaluation_data", "calibration_too_small"} & set(codes)


def test_a_layer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    recipe = {"steps": [{"method": "quantize.linear", "keep_float": ["conv9"]}]}
    error = failure(run_here(tmp_path, job(tmp_path, recipe=recipe)))
    assert error.code == "method_not_applicable"
    assert "conv9" in error.detail


def test_a_request_that_is_none_is_told(tmp_path: Path) -> None:
    assert failure(run(tmp_path, "{}")).code == "invalid_request"


def test_inspecting_data_and_a_model(tmp_path: Path) -> None:
    (found,) = run(tmp_path, {"kind": "inspect_dataset", "files": [staged(DEMO / "mnist.npz")], "spec": DATASET})
    assert found.kind == "dataset_inspected"
    assert found.description.splits["evaluation"].samples == len(np.load(DEMO / "mnist.npz")["x_test"])
    (model,) = run(tmp_path, {"kind": "inspect_model", "files": [staged(DEMO / "lenet5.onnx")]})
    assert model.kind == "model_inspected"
    assert [layer.name for layer in model.description.layers] == ["conv1", "conv2", "fc1", "fc2"]
