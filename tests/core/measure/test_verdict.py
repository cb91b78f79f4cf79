import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import core
from core.data.dataset import open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import CATALOGUE as ERRORS
from core.findings import CATALOGUE as FINDINGS
from core.measure.host import SPEED_FLAGS, describe_host
from core.measure.verdict import MeasureRequest, measure_and_judge
from core.specs.recipe import Constraints, Target
from core.verdict import LayerVerdict, Reproduce, Sensitivity, Verdict


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(size=(1500, 40)), -4, 4).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.argmax(x[:, :6], axis=1))
    spec = DatasetSpec(task="classification", splits={"evaluation": SplitArrays(x="x", y="y")})
    return open_dataset([tmp_path / "d.npz"], spec)


@pytest.fixture
def measured(tmp_path, dataset, linear_file, int8_linear_file):
    """A float file and its 8-bit twin, measured: the verdict, the metrics, what was told of the progress."""
    weight = 0.05 * np.random.default_rng(1).normal(size=(40, 6))
    weight[:6] += np.eye(6)
    original = linear_file("original.onnx", weight)

    def run(**changes):
        request = {
            "original": original,
            "original_bytes": original.stat().st_size,
            "result": int8_linear_file("result.onnx", weight),
            "dataset": dataset,
            "target": Target(batch_sizes=(1, 16)),
            "constraints": Constraints(max_drop=0.05),
            "layers": (
                LayerVerdict(
                    name="fc",
                    kind="linear",
                    encoding="int8",
                    shape="40×6",
                    sensitivity=Sensitivity(sqnr_db=40.0),
                    bytes_before=984,
                    bytes=264,
                ),
            ),
            "reproduce": Reproduce(recipe_sha256="a", plan=None, seed=0, versions={}, artifact_sha256="b"),
            "lock_path": tmp_path / "lock",
            "runs": 5,
        }
        rows, told = [], []
        verdict = measure_and_judge(
            MeasureRequest(**(request | changes)), emit=rows.append, progress=lambda f, text: told.append((f, text))
        )
        return verdict, rows, told

    return run


def numbers(value, path=""):
    """Every number of a verdict with its path, except what only describes: histograms, counts, conditions, seeds."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("histogram", "reproduce", "seed"):
                yield from numbers(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def test_a_verdict_from_two_files(measured, tmp_path):
    verdict, rows, told = measured(original_bytes=123_456)
    assert verdict.satisfied
    # The uploaded file counts for the bytes, the stripped graph for the ratio.
    assert verdict.original.bytes == 123_456
    assert verdict.original.parameters == verdict.result.parameters == 246
    assert verdict.original.macs == verdict.result.macs == 240
    assert verdict.original.quality.metric == "accuracy"
    assert verdict.result.quality.value == pytest.approx(verdict.original.quality.value, abs=0.05)
    assert verdict.change.size_ratio == verdict.original.bytes_stripped / verdict.result.bytes_stripped
    assert [speedup.batch for speedup in verdict.change.speedup] == [1, 16]
    assert sum(verdict.itemised_bytes.model_dump().values()) == (tmp_path / "result.onnx").stat().st_size
    assert verdict.layers[0].share_of_time > 0
    assert verdict.two_conditions.integer_macs == 1
    assert [limit.batch for limit in verdict.two_conditions.limits] == [1, 16]
    assert "two_conditions" in {finding.code for finding in verdict.findings}
    assert verdict.conditions.interleaved
    assert verdict.conditions.threads == 1
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict

    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1

    emitted = set()
    for row in rows:
        emitted.add(float(row.value))
        emitted.update(float(value) for value in row.conditions.values() if isinstance(value, int | float))
    missing = [path for path, value in numbers(json.loads(verdict.model_dump_json())) if float(value) not in emitted]
    assert missing == []


def test_without_data_there_is_no_quality(measured):
    verdict, _, _ = measured(dataset=None, runs=3)
    assert verdict.original.quality is None
    assert verdict.change.quality is None
    assert not verdict.satisfied  # the limit for the drop could not be judged
    assert {"limit_not_measured", "no_evaluation_data"} <= {finding.code for finding in verdict.findings}


def test_a_model_of_one_batch_size_is_measured_at_that(measured, linear_file):
    path = linear_file("fixed.onnx", np.eye(40)[:, :6], batch=4)
    verdict, _, _ = measured(original=path, result=path, runs=3)
    assert [latency.batch for latency in verdict.result.latency] == [4]
    assert "batch_fixed" in {finding.code for finding in verdict.findings}
    assert verdict.result.macs == 240


def test_host():
    host = describe_host()
    assert host.cores >= 1
    assert re.fullmatch(r"[0-9a-f]{12}", host.host_class)
    assert set(host.flags) <= set(SPEED_FLAGS)


def test_every_code_that_is_used_is_in_its_catalogue():
    found = {"finding": set(), "error": set()}
    for path in Path(core.__file__).parent.rglob("*.py"):
        source = path.read_text()
        found["finding"] |= set(re.findall(r"\b(?:make_finding\(|Finding\(\s*code=)\s*\"(\w+)\"", source))
        found["error"] |= set(re.findall(r"\bModelpressError\(\s*\"(\w+)\"", source))
    assert len(found["finding"]) > 10
    assert found["finding"] <= set(FINDINGS)
    assert found["error"] <= set(ERRORS)


def test_no_runtime_calls_home(tmp_path, linear_file):
    path = linear_file("a.onnx", np.eye(2))
    program = f"""
import core, pathlib
from core.measure.engine import ONNXRUNTIME, OPENVINO, open_engine
for runtime in (ONNXRUNTIME, OPENVINO):
    open_engine(runtime, pathlib.Path({str(path)!r}), 1)
"""
    environment = {"HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "home").mkdir()
    subprocess.run([sys.executable, "-I", "-c", program], check=True, env=environment, timeout=60)
    assert list((tmp_path / "home").rglob("*")) == []
