"""What parses uploads, fed with bytes at random: it says no with a code and never anything else."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from core.data.formats import open_source
from core.data.inspection import describe_dataset
from core.data.source import DataFile
from core.description import DatasetSpec
from core.errors import ModelpressError
from core.network.gate import check
from core.network.gate_onnx import open_onnx
from core.network.pickle_names import imported_names
from tests.hostile.archives import honest
from workers.lines import Lines, Violation

BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
# Places and values of bytes that are overwritten, and where the file ends.
Damage = tuple[list[tuple[int, int]], int | None]
PLACES = st.integers(0, 1 << 20)
DAMAGE = st.tuples(
    st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=8),
    st.none() | PLACES,
)


def damaged(content: bytes, damage: Damage) -> bytes:
    edited = bytearray(content)
    for place, value in damage[0]:
        edited[place % len(edited)] = value
    return bytes(edited if damage[1] is None else edited[: damage[1] % len(edited)])


def archive() -> bytes:
    """The demo's archive with its weights cut to a few bytes, so that damage hits what is parsed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in honest().items():
            target.writestr(name, content[:8] if "/weight_" in name else content)
    return buffer.getvalue()


def network() -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [1.0] * 16)
    value = helper.make_tensor_value_info
    node = helper.make_node("Gemm", ["x", "w"], ["y"], alpha=2.0)
    branch = helper.make_graph([helper.make_node("Relu", ["y"], ["z"])], "b", [], [value("z", TensorProto.FLOAT, None)])
    choice = helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
    inputs = [value("x", TensorProto.FLOAT, ["n", 4]), value("c", TensorProto.BOOL, [])]
    graph = helper.make_graph([node, choice], "g", inputs, [value("o", TensorProto.FLOAT, None)], [weight])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros((4, 2), np.float32), y=np.zeros(4, np.int64))
    return buffer.getvalue()


def weights() -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


ARCHIVE, NETWORK, ARRAYS, WEIGHTS = archive(), network(), arrays(), weights()


def code_of(call: Callable[[], object]) -> str | None:
    """The code with which it says no, None for a yes; whatever else it raises fails the test."""
    try:
        call()
    except ModelpressError as error:
        return error.code
    return None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "upload"


@BOUNDED
@given(damage=DAMAGE)
def test_the_gate(place: Path, damage: Damage) -> None:
    place.write_bytes(damaged(ARCHIVE, damage))
    codes = {"unsafe_file", "corrupt_file", "unknown_format", "unsupported_version", None}
    assert code_of(lambda: check(place)) in codes


@BOUNDED
@given(damage=DAMAGE)
def test_onnx(place: Path, damage: Damage) -> None:
    place.write_bytes(damaged(NETWORK, damage))
    assert code_of(lambda: (check(place), open_onnx(place))) != "internal"


@BOUNDED
@given(content=st.binary(max_size=200), damage=DAMAGE)
def test_names_in_pickles(content: bytes, damage: Damage) -> None:
    with zipfile.ZipFile(io.BytesIO(honest()["network/data/sample_inputs/model.pt"])) as saved:
        pickled = saved.read("archive/data.pkl")
    for data in (content, damaged(pickled, damage)):
        try:
            imported_names(data)
        except ValueError:
            continue


@BOUNDED
@given(damage=DAMAGE, content=st.sampled_from([ARRAYS, WEIGHTS]))
def test_data_sets(place: Path, damage: Damage, content: bytes) -> None:
    place.write_bytes(damaged(content, damage))
    files, spec = [DataFile(place, "data")], DatasetSpec(task="none")
    assert code_of(lambda: describe_dataset(files, spec)) in ("invalid_data", None)


@BOUNDED
@given(content=st.binary(max_size=300), name=st.sampled_from(["a.csv", "a.jsonl", "a.zip", "a.parquet", "a", "a.npz"]))
def test_data_of_no_format(place: Path, content: bytes, name: str) -> None:
    for start in (b"", b"PK\x03\x04", b"PAR1", b'{"x": ', b"\x80\x00\x00\x00\x00\x00\x00\x00{"):
        place.write_bytes(start + content)
        assert code_of(lambda: open_source([DataFile(place, name)], "none")) in ("invalid_data", None)


@BOUNDED
@given(
    parts=st.lists(st.binary(max_size=100) | st.sampled_from([b"\n", b'{"kind":"log","text":"', b'"}\n', b"\\ud800"]))
)
def test_what_a_runner_says(parts: list[bytes]) -> None:
    lines = Lines()
    try:
        for part in parts:
            lines.feed(part)
        lines.close()
    except Violation:
        pass
