"""Waveforms are prepared as the feature extractor of the model prepares them."""

import numpy as np
import pytest
import transformers

from core.data.dataset import open_dataset
from core.data.preprocessor import read_preprocessor
from core.data.source import DataFile
from core.description import DatasetSpec, InputMapping, TensorDescription

INPUTS = (TensorDescription(name="input_values", dtype="float32", shape=("batch", "samples")),)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_feature_extractor_beside_the_model_is_followed(tmp_path, rng, dtype):
    extractor = transformers.Wav2Vec2FeatureExtractor()
    extractor.save_pretrained(tmp_path)
    waves = (rng.normal(size=(3, 400)) * 3000 + 50).astype(dtype)
    waves[1] = 7  # Silence.
    np.savez(tmp_path / "waves.npz", x_test=waves, y_test=np.array([0, 1, 0]))
    beside = [DataFile(tmp_path / "preprocessor_config.json", "preprocessor_config.json")]
    dataset = open_dataset([tmp_path / "waves.npz"], DatasetSpec(task="classification"), INPUTS, beside=beside)
    found = next(dataset.batches("evaluation", 3)).inputs["input_values"].numpy()
    wanted = extractor(list(waves.astype(np.float32)), sampling_rate=16_000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_extractor_of_spectrograms_changes_nothing_that_is_uploaded(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"do_normalize": true, "feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16000}')
    assert read_preprocessor(DataFile(path, path.name)) == InputMapping()


def test_what_the_description_says_is_done_last(tmp_path, rng):
    np.savez(tmp_path / "waves.npz", x_test=rng.normal(size=(2, 5, 8)) * 40 + 9)
    mapping = InputMapping(scale=0.1, mean=(3.0,), per_sample=True)
    spec = DatasetSpec(task="none", inputs={"x": mapping})
    found = next(open_dataset([tmp_path / "waves.npz"], spec).batches("evaluation", 2)).inputs["x"]
    np.testing.assert_allclose(found.mean((1, 2)), [0, 0], atol=1e-6)
    np.testing.assert_allclose(found.std((1, 2), correction=0), [1, 1], rtol=1e-5)
