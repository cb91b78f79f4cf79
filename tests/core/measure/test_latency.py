import select
import subprocess
import sys

import numpy as np
import pytest

from core.data.dataset import open_dataset
from core.description import DatasetSpec, SplitArrays
from core.measure.feeds import make_feed
from core.measure.latency import compare_latency
from core.measure.lock import hold_measuring_lock
from core.measure.profile import share_time
from core.measure.runtime import open_session


def test_both_are_timed_as_often_and_told_with_their_spread(linear_file):
    rng = np.random.default_rng(0)
    original, result = linear_file("a.onnx", rng.normal(size=(60, 50))), linear_file("b.onnx", rng.normal(size=(60, 8)))
    told = []
    feed = {"x": rng.normal(size=(3, 60)).astype(np.float32)}
    found = compare_latency(original, result, feed, threads=1, runs=12, progress=told.append)
    for latency in (found.original, found.result):
        assert (latency.batch, latency.runs) == (3, 15)  # at least 12, in blocks of equal length
        assert 0 < latency.low_ms <= latency.median_ms <= latency.high_ms
        edges = [edge for edge, _ in latency.histogram]
        assert edges == sorted(edges)
        # Short networks are called many times in a run, and every call is in the histogram.
        assert sum(count for _, count in latency.histogram) > 12
    assert found.speedup.ratio == pytest.approx(found.original.median_ms / found.result.median_ms)
    assert found.speedup.low <= found.speedup.ratio <= found.speedup.high
    assert found.noise_floor >= 0
    assert told == sorted(told)
    assert told[-1] == 1


def test_what_progress_raises_stops_the_timing(linear_file):
    path = linear_file("a.onnx", np.eye(3))

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_latency(path, path, {"x": np.zeros((1, 3), np.float32)}, threads=1, runs=5, progress=stop)


def hold_in_another_process(lock):
    program = """
import sys, pathlib
from core.measure.lock import hold_measuring_lock
print("waiting", flush=True)
with hold_measuring_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-I", "-c", program, str(lock)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    return process


def test_only_one_process_measures_at_a_time(tmp_path):
    holder = hold_in_another_process(tmp_path / "lock")
    assert holder.stdout.readline() == "held\n"
    waiter = hold_in_another_process(tmp_path / "lock")
    assert not select.select([waiter.stdout], [], [], 0.3)[0]
    holder.kill()  # a holder that dies gives the lock back
    assert waiter.stdout.readline() == "held\n"
    for process in (holder, waiter):
        process.communicate(timeout=30)


def test_a_read_only_lock_file_is_enough(tmp_path):
    lock = tmp_path / "lock"
    lock.touch(mode=0o444)
    with hold_measuring_lock(lock):
        pass


def test_samples_are_repeated_to_fill_a_batch(tmp_path, linear_file):
    session = open_session(linear_file("a.onnx", np.eye(3)), 1)
    np.savez(tmp_path / "d.npz", x=np.arange(6.0).reshape(2, 3))
    spec = DatasetSpec(task="none", splits={"evaluation": SplitArrays(x="x")})
    feed = make_feed(session, open_dataset([tmp_path / "d.npz"], spec), 3)
    assert feed["x"].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
    noise = make_feed(session, None, 4)
    assert noise["x"].shape == (4, 3)
    assert noise["x"].dtype == np.float32
    np.testing.assert_array_equal(noise["x"], make_feed(session, None, 4)["x"])


def test_time_is_shared_out_to_the_layers(onnx_file, int8_linear_file):
    from onnx import TensorProto, helper

    ones = np.ones((64, 64), np.float32)
    names = ["layers.1", "layers.10", "head"]
    nodes = [
        helper.make_node("MatMul", ["x", "layers.1.weight"], ["a"], name="m1"),
        helper.make_node("MatMul", ["a", "layers.10.weight"], ["b"], name="m2"),
        helper.make_node("Softmax", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="head/2"),
    ]
    shapes = [{name: (TensorProto.FLOAT, ["n", 64])} for name in ("x", "y")]
    constants = {"layers.1.weight": ones, "layers.10.weight": ones, "w": ones}
    path = onnx_file("p.onnx", nodes, *shapes, constants)
    shares = share_time(path, {"x": np.zeros((2, 64), np.float32)}, names, threads=1)
    assert set(shares.layers) == set(names)
    assert all(share > 0 for share in shares.layers.values())
    assert sum(shares.layers.values()) < 1
    assert shares.conversions == 0
    quantized = int8_linear_file("q.onnx", np.random.default_rng(0).normal(size=(64, 16)))
    shares = share_time(quantized, {"x": np.zeros((2, 64), np.float32)}, ["fc"], threads=1)
    assert shares.layers["fc"] > 0
    assert shares.conversions > 0
