"""Whole jobs of `quantize.linear` as the runner gets them."""

from pathlib import Path

import pytest

from core.compression.pipeline import run
from core.measure.size import itemise_bytes
from tests.core.compression.small_job import SmallJob, write_small_job

WEIGHTS = 6 * 9 + 8 * 54 + 2 * 8 * 72 + 10 * 128


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    return write_small_job(tmp_path_factory.mktemp("small"))


def test_weights_alone_without_data(small: SmallJob, tmp_path: Path) -> None:
    step = {"method": "quantize.linear", "weights": {"bits": 3}, "activations": None}
    verdict = run(small.ask(tmp_path, step, dataset=[], dataset_spec=None), lambda message: None, tmp_path)
    assert {layer.encoding for layer in verdict.layers} == {"int3"}
    assert all(layer.sensitivity.sqnr_db is not None for layer in verdict.layers)
    assert abs(itemise_bytes(tmp_path / "out" / "model.onnx").weights - WEIGHTS * 3 / 8) <= 5
