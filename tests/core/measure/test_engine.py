"""Files in OpenVINO: the same answers, the same figures, and what a worker without it says."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from core.data.dataset import open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.measure import engine
from core.measure.engine import (
    ONNXRUNTIME,
    OPENVINO,
    baseline_runtimes,
    bind_file,
    candidate_runtimes,
    keep_able,
    open_engine,
)
from core.measure.latency import Schedule, choose_runtime, time_pair
from core.measure.measurement import Pair, schedule_for
from core.measure.memory import Probe, probe_pair
from core.measure.quality import Sides, compare_answers, compare_quality
from core.specs.recipe import Target

FLOAT = TensorProto.FLOAT


def test_both_runtimes_answer_alike(int8_linear_file):
    rng = np.random.default_rng(0)
    path = int8_linear_file("q.onnx", rng.normal(size=(24, 10)))
    for batch in (3, 5):
        feed = {"x": np.clip(rng.normal(size=(batch, 24)), -4, 4).astype(np.float32)}
        here, there = (open_engine(runtime, path, 1).run(feed) for runtime in (ONNXRUNTIME, OPENVINO))
        assert [each.shape for each in there] == [(batch, 10)]
        np.testing.assert_allclose(there[0], here[0], atol=1e-3)


def test_floats_are_not_rounded_behind_the_users_back(linear_file):
    """On CPUs that have it OpenVINO computes in bfloat16 unless it is told not to, which is off by 0.4 %."""
    rng = np.random.default_rng(0)
    path, feed = linear_file("f.onnx", rng.normal(size=(64, 8))), {"x": rng.normal(size=(4, 64)).astype(np.float32)}
    here, there = (open_engine(runtime, path, 1).run(feed)[0] for runtime in (ONNXRUNTIME, OPENVINO))
    np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-5)


def test_several_outputs_keep_their_order_and_integers_their_type(onnx_file):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
    ]
    shapes = {"ids": (TensorProto.INT64, ["n", 3])}, {"sum": (FLOAT, ["n", 2]), "rows": (FLOAT, ["n", 3, 2])}
    path = onnx_file(
        "g.onnx", nodes, *shapes, {"table": np.arange(8.0, dtype=np.float32).reshape(4, 2), "axis": np.array([1])}
    )
    feed = {"ids": np.array([[0, 1, 3]])}
    for runtime in (ONNXRUNTIME, OPENVINO):
        total, rows = open_engine(runtime, path, 1).run(feed)
        assert total.tolist() == [[8, 11]]
        assert rows.tolist() == [[[0, 1], [2, 3], [6, 7]]]
        bind_file(runtime, path, feed, 1)()


def test_a_file_that_openvino_cannot_take_is_an_error_with_its_words(onnx_file, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelpressError, match="OpenVINO cannot open the file: ") as caught:
        open_engine(OPENVINO, tmp_path / "broken.onnx", 1)
    assert caught.value.code == "runtime_failed"
    path = onnx_file(
        "s.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, [2, 3])}, {"y": (FLOAT, [2, 3])}, {}
    )
    with pytest.raises(ModelpressError, match="OpenVINO cannot run the file: "):
        open_engine(OPENVINO, path, 1).run({"x": np.zeros((1, 4), np.float32)})


@pytest.fixture
def only_for_onnxruntime(onnx_file):
    """A determinant, for which OpenVINO has no operator."""
    nodes = [helper.make_node("Det", ["x"], ["d"]), helper.make_node("Unsqueeze", ["d", "axis"], ["y"])]
    shapes = {"x": (FLOAT, ["n", 2, 2])}, {"y": (FLOAT, ["n", 1])}
    return onnx_file("d.onnx", nodes, *shapes, {"axis": np.array([1])})


def test_a_runtime_without_an_operator_of_a_file_is_no_choice(linear_file, only_for_onnxruntime):
    both = (ONNXRUNTIME, OPENVINO)
    square = [{"x": np.ones((batch, 2, 2), np.float32)} for batch in (1, 3)]
    assert keep_able(both, only_for_onnxruntime, square, 1) == (ONNXRUNTIME,)
    assert keep_able(both, linear_file("a.onnx", np.ones((2, 2))), [{"x": np.ones((3, 2), np.float32)}], 1) == both
    with pytest.raises(ModelpressError, match="Det"):
        open_engine(OPENVINO, only_for_onnxruntime, 1)


def test_a_job_for_any_runtime_is_timed_in_those_that_run_both_files(tmp_path, onnx_file, only_for_onnxruntime):
    feeds = {2: {"x": np.ones((2, 2, 2), np.float32)}}

    def schedule(runtime, original=only_for_onnxruntime, result=only_for_onnxruntime):
        given = {"dataset": None, "encodings": {}, "lock_path": tmp_path, "runs": 5, "seed": 0, "sizes": {}}
        found = schedule_for(Pair(original=original, result=result, target=Target(runtime=runtime), **given), feeds)
        return found.originals, found.results

    assert schedule("auto") == ((ONNXRUNTIME,), (ONNXRUNTIME,))
    any_runtime = onnx_file(
        "r.onnx", [helper.make_node("Relu", ["x"], ["y"])], *[{n: (FLOAT, ["n", 2, 2])} for n in "xy"], {}
    )
    assert schedule("auto", result=any_runtime) == ((ONNXRUNTIME,), (ONNXRUNTIME,))
    assert schedule("auto", any_runtime, any_runtime) == ((ONNXRUNTIME, OPENVINO), (ONNXRUNTIME, OPENVINO))
    # What was asked for by name is not replaced; timing it says what it lacks.
    assert schedule(OPENVINO) == ((ONNXRUNTIME,), (OPENVINO,))


def test_targets_name_runtimes(monkeypatch):
    assert candidate_runtimes("auto") == (ONNXRUNTIME, OPENVINO)
    assert candidate_runtimes(OPENVINO) == (OPENVINO,)
    assert baseline_runtimes(OPENVINO) == (ONNXRUNTIME, OPENVINO)
    assert baseline_runtimes(ONNXRUNTIME) == (ONNXRUNTIME,)
    monkeypatch.setitem(engine.PACKAGES, OPENVINO, "a_package_that_nobody_has")
    assert candidate_runtimes("auto") == (ONNXRUNTIME,)
    with pytest.raises(ModelpressError, match="OpenVINO, which is not installed") as caught:
        candidate_runtimes(OPENVINO)
    assert caught.value.code == "runtime_missing"


def test_the_original_is_told_in_its_fastest_runtime_and_the_result_in_the_chosen_one(linear_file):
    original, result = linear_file("a.onnx", np.ones((60, 50))), linear_file("b.onnx", np.ones((60, 8)))
    schedule = Schedule(1, 5, (ONNXRUNTIME, OPENVINO), (ONNXRUNTIME, OPENVINO))
    pair = time_pair(original, result, {"x": np.ones((2, 60), np.float32)}, schedule)
    fastest = choose_runtime([pair])
    medians = {name: np.median(series.runs) for name, series in pair.results.items()}
    assert medians[fastest] == min(medians.values())
    for chosen in (ONNXRUNTIME, OPENVINO):
        found = pair.compare(chosen)
        assert found.result.runtime.split()[0] == engine.PACKAGES[chosen]
        assert found.original.median_ms <= found.others[0][0].median_ms
        assert found.others[1][0].runtime.split()[0] != found.result.runtime.split()[0]
        assert found.speedup.ratio == pytest.approx(found.original.median_ms / found.result.median_ms)


def test_memory_is_that_of_the_runtime(linear_file):
    path = linear_file("a.onnx", np.ones((4, 4)))
    before, after = probe_pair(path, path, {"x": np.zeros((2, 4), np.float32)}, Probe(OPENVINO, 1, 1))
    assert before.batch == after.batch == 2
    assert 0 < before.runtime_bytes < before.peak_rss_bytes
    assert before.load_ms > 0


def test_quality_is_of_the_runtime_and_says_how_far_it_is_from_onnxruntime(tmp_path, linear_file, int8_linear_file):
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(size=(100, 20)), -4, 4).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.argmax(x[:, :5], axis=1))
    spec = DatasetSpec(task="classification", splits={"evaluation": SplitArrays(x="x", y="y")})
    data = open_dataset([tmp_path / "d.npz"], spec)
    weight = np.eye(20)[:, :5]
    files = linear_file("a.onnx", weight), int8_linear_file("b.onnx", weight)
    here, there = compare_quality(*files, data, threads=1), compare_answers(Sides(*files, 1, OPENVINO), data)
    assert here.runtime_difference is None
    assert 0 <= there.runtime_difference < 0.05
    assert there.result.value == pytest.approx(here.result.value, abs=0.02)
