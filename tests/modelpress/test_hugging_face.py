"""Hugging Face models through a whole service: uploaded, quantized on data of their own kind, fetched, and run."""

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image

from tests.core.network.hf_models import SMALL, save, save_tokenizer, zipped
from tests.modelpress.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RECIPE = "recipe: {version: 1, steps: [{method: quantize.linear}]}\n"


def run(modelpress: Run, model: Path, data: Path, folder: Path) -> dict[str, object]:
    """The finished job, whose bundle is then in `folder`."""
    uploaded = json.loads(modelpress("upload", model, "--json").stdout)
    assert uploaded["state"] == "ready", uploaded
    assert (uploaded["format"], uploaded["batch"]) == ("hf", "dynamic")
    sent = modelpress("upload", "--dataset", data, "--json")
    (folder / "recipe.yaml").write_text(RECIPE)
    asked = ("--model", uploaded["id"], "--dataset", json.loads(sent.stdout)["id"], "--watch", "--json")
    ran = modelpress("run", folder / "recipe.yaml", *asked)
    assert ran.returncode == 0, ran.stderr
    job = json.loads(ran.stdout)
    fetched = modelpress("get", job["id"], "--to", folder, "--kind", "bundle.zip", "--kind", "plan.json")
    assert fetched.returncode == 0, fetched.stderr
    return dict(job)


def session_of(bundle: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])


def test_a_folder_of_bert_and_texts(modelpress: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, vocab_size=100, id2label={0: "bad", 1: "good"})
    save_tokenizer(tmp_path / "bert")
    save(transformers.BertForSequenceClassification(config), tmp_path / "bert")
    drawn = random.Random(0)
    rows = [
        {
            "text": " ".join(drawn.choices(["good", "great", "bad", "dull", "film", "plot"], k=6)) + f" {row}",
            "label": label,
        }
        for row, label in enumerate(["good", "bad"] * 40)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    job = run(modelpress, tmp_path / "bert", data, tmp_path)
    assert job["verdict"]["result"]["quality"]["metric"] == "accuracy"
    names = {file["filename"] for file in json.loads((tmp_path / "plan.json").read_text())["model"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "bundle")
    prepared = tokenizer(["good film", "a dull one"], padding=True, return_tensors="np", return_token_type_ids=True)
    session = session_of(tmp_path / "bundle")
    logits = session.run(None, {value.name: prepared[value.name] for value in session.get_inputs()})[0]
    assert logits.shape == (2, 2)
    assert np.isfinite(logits).all()


def test_a_zip_of_vit_and_images(modelpress: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, id2label={0: "dark", 1: "light"})
    files = save(transformers.ViTForImageClassification(config), tmp_path / "vit")
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for row in range(60):
            name, low = ("dark", 0) if row % 2 else ("light", 128)
            picture = io.BytesIO()
            Image.fromarray(rng.integers(low, low + 128, (40, 48, 3), np.uint8)).save(picture, "PNG")
            archive.writestr(f"{name}/{row}.png", picture.getvalue())
    job = run(modelpress, zipped(files, tmp_path / "vit.zip"), tmp_path / "data.zip", tmp_path)
    assert job["verdict"]["result"]["quality"]["metric"] == "accuracy"
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "bundle")
    prepared = processor(images=[Image.new("RGB", (40, 48))], return_tensors="np")
    assert session_of(tmp_path / "bundle").run(None, dict(prepared))[0].shape == (1, 2)
