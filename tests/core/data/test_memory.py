"""Data are read piece by piece: what is held does not grow with what is on the disk."""

import gc
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.data.dataset import open_dataset
from core.data.inspection import describe_dataset
from core.description import DatasetSpec, SplitArrays, TensorDescription

MB = 1 << 20
SAMPLE = (3, 64, 64)
SPEC = DatasetSpec(
    task="classification",
    splits={"train": SplitArrays(x="x", y="y"), "evaluation": SplitArrays(x="tx", y="ty")},
)


def peak_of(work):
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["npz", "packed", "safetensors"])
def test_arrays_larger_than_what_may_be_held(tmp_path, kind):
    x = np.zeros((1600, *SAMPLE), np.float32)  # 75 MiB
    x[:, 0, 0, 0] = np.arange(1600)
    arrays = {"x": x, "y": np.arange(1600) % 7, "tx": x[:100] + 1, "ty": np.arange(100) % 7}
    path = tmp_path / "data"
    with path.open("wb") as file:
        {"npz": np.savez, "packed": np.savez_compressed}.get(kind, lambda *_, **__: None)(file, **arrays)
    if kind == "safetensors":
        save_file(arrays, path)
    del x, arrays
    inputs = (TensorDescription(name="x", dtype="float32", shape=("batch", *SAMPLE)),)

    def work():
        assert describe_dataset([path], SPEC).splits["evaluation"].samples == 100
        dataset = open_dataset([path], SPEC, inputs)
        seen = sum(len(batch.labels) for batch in dataset.batches("calibration", 32))
        assert seen == 1440
        assert dataset.overlap() == 0

    assert peak_of(work) < 24 * MB


def test_a_long_text_and_a_long_table(tmp_path, text_file, tokenizer):
    line = "the cat sat on the mat and the dog ran under the tree again\n"
    files = [text_file("train.txt", line * 60_000), text_file("test.txt", "a good film it was\n" * 100)]  # 3.6 MB
    peak = peak_of(lambda: describe_dataset([*files, tokenizer], DatasetSpec(task="language_modelling")))
    tokens = 13 * 60_000
    # The rows of the splits are numbered, and drawn in an order: a few times eight bytes a token.
    assert peak < 6 * 8 * tokens + 16 * MB
