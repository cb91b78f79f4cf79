import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.data.inspection import describe_dataset
from core.data.source import DataFile
from core.data.tensors import SafetensorsFile
from core.description import DatasetSpec
from core.errors import ModelpressError


def write(path, header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def fails(path):
    with pytest.raises(ModelpressError) as caught:
        SafetensorsFile(path)
    assert caught.value.code == "invalid_data"
    return caught.value.detail


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "u1", "?"])
def test_reads_what_safetensors_wrote(tmp_path, dtype):
    array = (np.arange(24).reshape(4, 3, 2) % 2).astype(dtype)
    save_file({"a": array, "b": array[:1].copy(), "empty": array[:0].copy()}, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    for name, wanted in (("a", array), ("b", array[:1]), ("empty", array[:0])):
        got = file.read(name)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got.read(np.arange(len(got))), wanted)


def test_a_data_set_of_safetensors(tmp_path, rng):
    arrays = {"x_train": rng.normal(size=(50, 4)).astype("f4"), "y_train": np.arange(50) % 3}
    arrays |= {"x_test": arrays["x_train"][:10].copy(), "y_test": np.arange(10) % 3}
    save_file(arrays, tmp_path / "a.safetensors")
    found = describe_dataset(
        [DataFile(tmp_path / "a.safetensors", "a.safetensors")], DatasetSpec(task="classification")
    )
    assert (found.format, found.classes, found.splits["evaluation"].samples) == ("safetensors", 3, 10)
    assert found.reading["train"].x == "x_train"
    assert found.warnings == (
        "10 of the 10 evaluation samples are also in another split, such as row 0, which is row 0 of train.",
    )


def test_what_the_header_says_must_be_there(tmp_path):
    path = tmp_path / "a.safetensors"
    good = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert SafetensorsFile(write(path, good, bytes(8))).entries["a"].shape == (2,)
    for header, data in (
        (good, bytes(7)),
        (good, bytes(9)),
        ({"a": {**good["a"], "shape": [3]}}, bytes(8)),
        ({"a": {**good["a"], "shape": [-2]}}, bytes(8)),
        ({"a": {**good["a"], "data_offsets": [8, 0]}}, bytes(8)),
        ({"a": good["a"], "b": good["a"]}, bytes(8)),
        ({"a": {**good["a"], "shape": [2**62, 4], "data_offsets": [0, 8]}}, bytes(8)),
        (b'{"a": 1}', b""),
        (
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        ),
        (b"[" * 100_000, b""),
    ):
        fails(write(path, header, data))
    fails(write(path, good, length=2**60))


def test_other_numbers_are_refused_by_name(tmp_path):
    header = {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    file = SafetensorsFile(write(tmp_path / "a.safetensors", header, bytes(4)))
    with pytest.raises(ModelpressError, match="BF16"):
        file.read("a")
