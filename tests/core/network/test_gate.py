"""What the gate takes a file for, by its content."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import ModelpressError
from core.network.gate import recognise


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def saved_checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(2))
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (pickle.dumps({"a": 1}), "pickle"),
        (saved_checkpoint(), "checkpoint"),
        (zipped("net/code/x.py", "net/constants.pkl", "net/data.pkl"), "TorchScript"),
        (zipped("metadata.json", "config.json", "model.weights.h5"), "Keras"),
        (npz(), "NumPy"),
        (safetensors(), "safetensors"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 100, "TensorFlow Lite"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x08\x01\x12\xa4\x9f\x02\x0a\x05" + b"\0" * 99, "SavedModel"),
        (zipped("net/saved_model.pb", "net/variables/variables.index"), "SavedModel"),
        (b"\x0a\x1f\x0a\x01x\x12\x0bPlaceholder" + b"\0" * 99, "frozen graph"),
        (tarred(), "tar"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (zipped("readme.txt"), "zip"),
        (b"#!/bin/sh\necho hello\n", "no model"),
        (b"", "no model"),
    ],
)
def test_other_files_are_named_with_what_to_do(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(ModelpressError) as raised:
        recognise(path)
    assert raised.value.code == "unknown_format"
    assert word in raised.value.detail
    assert raised.value.hint


def test_an_old_pt2_is_of_a_version_not_read(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(zipped("version", "serialized_exported_program.json", "serialized_state_dict.pt"))
    with pytest.raises(ModelpressError) as raised:
        recognise(path)
    assert raised.value.code == "unsupported_version"


def test_a_zip_cut_short_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(zipped("a/archive_format")[:40])
    with pytest.raises(ModelpressError) as raised:
        recognise(path)
    assert raised.value.code == "corrupt_file"


def test_the_name_of_the_file_does_not_matter(tmp_path: Path, save_pt2, write_onnx) -> None:
    onnx_path = write_onnx("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }")
    assert recognise(onnx_path.rename(tmp_path / "a.pt2")) == "onnx"
    pt2_path = save_pt2(torch.nn.Linear(2, 2), torch.zeros(2, 2))
    assert recognise(pt2_path.rename(tmp_path / "a.onnx")) == "pt2"
