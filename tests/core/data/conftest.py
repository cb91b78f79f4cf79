"""Small data sets in every format, written by the libraries that users have."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from core.data.source import DataFile

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "good",
    "bad",
    "film",
    "was",
    "very",
    "not",
    "is",
    "it",
    "and",
    "again",
]


def encode(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pictures(rng):
    """24 random colour images of 12×10 pixels."""
    return rng.integers(0, 255, (24, 10, 12, 3)).astype(np.uint8)


@pytest.fixture
def image_zip(tmp_path):
    def make(entries, name="images.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for entry, content in entries:
                archive.writestr(entry, content)
        return DataFile(tmp_path / name, name)

    return make


@pytest.fixture
def parquet_file(tmp_path):
    def make(name, columns, names=None):
        table = pa.table(columns)
        if names:
            features = {column: {"names": list(given), "_type": "ClassLabel"} for column, given in names.items()}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, tmp_path / "parquet")
        path = tmp_path / name.replace("/", "_")
        (tmp_path / "parquet").rename(path)
        return DataFile(path, name)

    return make


@pytest.fixture
def text_file(tmp_path):
    def make(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return DataFile(path, name)

    return make


@pytest.fixture
def tokenizer(tmp_path):
    """Whole words; [CLS] … [SEP] around a text."""
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return DataFile(path, "tokenizer.json")
