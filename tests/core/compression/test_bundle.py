"""The bundle of a Hugging Face model: its README's lines are run in its folder, as whoever gets it would."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from core.compression.bundle import write_bundle
from core.network.export import export_onnx
from core.network.hf_folder import companions
from core.network.inspect import inspect, read
from tests.core.network.hf_models import SMALL, save, save_tokenizer

TEXT = {**SMALL, "vocab_size": 100}


def sentiment(folder: Path) -> nn.Module:
    save_tokenizer(folder)
    config = transformers.BertConfig(**TEXT, id2label={0: "bad", 1: "good"})
    return transformers.BertForSequenceClassification(config)


def language(folder: Path) -> nn.Module:
    save_tokenizer(folder)
    config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def pictures(folder: Path) -> nn.Module:
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, image_size=32, patch_size=8))


def sounds(folder: Path) -> nn.Module:
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    convolutions = {"conv_dim": [8, 8], "conv_stride": [20, 16], "conv_kernel": [20, 16]}
    config = transformers.Wav2Vec2Config(
        **SMALL,
        **convolutions,
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return transformers.Wav2Vec2ForSequenceClassification(config)


@pytest.mark.parametrize(
    ("make", "printed"),
    [
        (sentiment, r"\['(bad|good)', '(bad|good)'\]"),
        (language, r"\(1, \d+, 100\)"),
        (pictures, r"\(1, 2\)"),
        (sounds, r"\(1, 2\)"),
    ],
)
def test_it_runs_as_its_readme_says(make: Callable[[Path], nn.Module], printed: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    out.mkdir()
    torch.manual_seed(0)
    files = save(make(folder), folder)
    export_onnx(read(files), out / "model.onnx")
    announced = write_bundle(out, "model.onnx", companions(files, tmp_path / "beside"), inspect(files))
    assert announced is not None
    assert announced.artifact_kind == "bundle.zip"
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for file in announced.files:
        shutil.copyfile(out / file.path, fetched / file.filename)
    assert {"model.onnx", "config.json", "README.md"} < {file.filename for file in announced.files}
    assert json.loads((fetched / "config.json").read_text()) == json.loads(files["config.json"].read_text())
    code = re.search(r"```python\n(.*?)```", (fetched / "README.md").read_text(), re.DOTALL)
    assert code is not None
    command = [sys.executable, "-c", code[1]]
    ran = subprocess.run(command, cwd=fetched, capture_output=True, text=True, check=False, timeout=100)
    assert re.fullmatch(printed, ran.stdout.strip()), ran.stdout + ran.stderr


def test_what_came_alone_has_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08")
    assert companions(path, tmp_path / "beside") == {}
