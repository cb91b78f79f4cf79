"""Hugging Face folders: models that transformers builds from tiny configs, against the same model in transformers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from core.errors import ModelpressError
from core.network.export import export_onnx
from core.network.gate import check, recognise
from core.network.hf_folder import companions
from core.network.inspect import inspect, read
from core.network.upload import Files
from tests.core.network.hf_models import SMALL, save, zipped

TEXT = {**SMALL, "vocab_size": 100}
CONVOLUTIONS = {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}


def bert() -> nn.Module:
    config = transformers.BertConfig(**{**TEXT, "num_hidden_layers": 2}, id2label={0: "bad", 1: "good"})
    return transformers.BertForSequenceClassification(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int | str, ...]], tuple[int | str, ...], str]] = {
    "bert": (
        bert,
        dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("batch", "sequence")),
        ("batch", 2),
        "text-classification",
    ),
    "token classification": (
        lambda: transformers.DistilBertForTokenClassification(
            transformers.DistilBertConfig(vocab_size=100, dim=32, n_layers=1, n_heads=4, hidden_dim=64, num_labels=3)
        ),
        dict.fromkeys(("input_ids", "attention_mask"), ("batch", "sequence")),
        ("batch", "sequence", 3),
        "token-classification",
    ),
    "features": (
        lambda: transformers.BertModel(transformers.BertConfig(**TEXT)),
        dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("batch", "sequence")),
        ("batch", "sequence", 32),
        "feature-extraction",
    ),
    "gpt2": (
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
            )
        ),
        dict.fromkeys(("input_ids", "attention_mask"), ("batch", "sequence")),
        ("batch", "sequence", 100),
        "text-generation",
    ),
    "vit": (
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)),
        {"pixel_values": ("batch", 3, 32, 32)},
        ("batch", 2),
        "image-classification",
    ),
    "resnet": (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
        {"pixel_values": ("batch", 3, "height", "width")},
        ("batch", 2),
        "image-classification",
    ),
    "convnext": (
        lambda: transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
        ),
        {"pixel_values": ("batch", 3, "height", "width")},
        ("batch", 2),
        "image-classification",
    ),
    "wav2vec2": (
        lambda: transformers.Wav2Vec2ForSequenceClassification(
            transformers.Wav2Vec2Config(
                **SMALL, **CONVOLUTIONS, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
            )
        ),
        {"input_values": ("batch", "samples")},
        ("batch", 2),
        "audio-classification",
    ),
}


def refusal(files: Path | Files) -> ModelpressError:
    with pytest.raises(ModelpressError) as raised:
        inspect(files)
    return raised.value


def refused_at_the_gate(files: Path | Files) -> ModelpressError:
    with pytest.raises(ModelpressError) as raised:
        check(files)
    return raised.value


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_read_with_its_sizes_free(name: str, tmp_path: Path) -> None:
    make, inputs, output, task = MODELS[name]
    torch.manual_seed(0)
    model = make()
    description = inspect(save(model, tmp_path))
    assert description.format == "hf"
    assert description.batch == "dynamic"
    assert {value.name: value.shape for value in description.inputs} == inputs
    assert [value.shape for value in description.outputs] == [output]
    assert description.parity.max_abs_difference <= 1e-5 * description.parity.max_abs_output
    assert description.parity.reference.startswith("transformers ")
    assert description.metadata["task"] == task
    used = sum(value.numel() for name, value in model.named_parameters() if "pooler" not in name or task[:4] == "text")
    assert 0 <= used - description.parameters < 0.05 * used


@pytest.mark.parametrize("name", ["bert", "gpt2", "convnext"])
def test_the_artifact_takes_other_sizes(name: str, tmp_path: Path) -> None:
    make, *_ = MODELS[name]
    torch.manual_seed(0)
    model = make()
    network = read(save(model, tmp_path / "model"))
    export_onnx(network, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    other = {"batch": 3, "sequence": 23, "height": 64, "width": 48}
    feed: dict[str, torch.Tensor] = {}
    for value in network.inputs:
        shape = [other[size] if isinstance(size, str) else size for size in value.shape]
        feed[value.name] = torch.randn(shape) if value.dtype == "float32" else torch.ones(shape, dtype=torch.int64)
    with torch.no_grad():
        expected = model(**feed).logits.numpy()
    found = session.run(None, {key: value.numpy() for key, value in feed.items()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_names_and_labels_are_those_of_the_model(tmp_path: Path) -> None:
    model = bert()
    network = read(save(model, tmp_path))
    ours, theirs = dict(network.graph.named_parameters()), dict(model.named_parameters())
    assert set(ours) == set(theirs)
    assert json.loads(network.metadata["id2label"]) == {"0": "bad", "1": "good"}


def test_shards_and_a_zip_give_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = bert()
    whole = save(model, tmp_path / "whole")
    shards = save(model, tmp_path / "shards", max_shard_size="60KB")
    assert sum(name.endswith(".safetensors") for name in shards) > 1
    path = zipped(shards, tmp_path / "model.zip", "folder/")
    assert recognise(path) == recognise(whole) == "hf"
    ids = torch.randint(0, 100, (2, 9))
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    expected = read(whole).graph(*inputs)
    for source in (shards, path):
        torch.testing.assert_close(read(source).graph(*inputs), expected)


def test_half_precision_is_recorded(tmp_path: Path) -> None:
    description = inspect(save(bert().half(), tmp_path))
    assert description.dtype == "float16"
    assert description.bytes_stripped == 2 * description.parameters


def test_what_came_with_the_model_is_found(tmp_path: Path) -> None:
    files = save(bert(), tmp_path / "model")
    for name in ("tokenizer.json", "vocab.txt"):
        files[name] = tmp_path / "model" / name
        files[name].write_text("{}")
    expected = {"config.json", "tokenizer.json", "vocab.txt"}
    assert set(companions(files, tmp_path)) == expected
    found = companions(zipped(files, tmp_path / "model.zip"), tmp_path / "out")
    assert set(found) == expected
    assert found["vocab.txt"].read_text() == "{}"
    assert companions(files["vocab.txt"], tmp_path) == {}


class TestPooling:
    """Folders of sentence-transformers, against the same arithmetic on the model's hidden states."""

    def write(self, folder: Path, modes: dict[str, object], *kinds: str) -> tuple[nn.Module, dict[str, Path]]:
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig(**TEXT))
        files = save(model, folder)
        modules = [
            {"idx": place, "path": f"{place}_{kind}" if place else "", "type": f"sentence_transformers.models.{kind}"}
            for place, kind in enumerate(("Transformer", "Pooling", *kinds))
        ]
        contents = {"modules.json": modules, "1_Pooling/config.json": {"word_embedding_dimension": 32, **modes}}
        for name, content in contents.items():
            files[name] = folder / name
            files[name].parent.mkdir(exist_ok=True)
            files[name].write_text(json.dumps(content))
        return model, files

    @pytest.mark.parametrize(
        ("modes", "kinds"),
        [
            ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("Normalize",)),
            ({"pooling_mode": "cls"}, ()),
            ({"pooling_mode_max_tokens": True}, ()),
        ],
    )
    def test_it_is_part_of_the_network(self, modes: dict[str, object], kinds: tuple[str, ...], tmp_path: Path) -> None:
        model, files = self.write(tmp_path, modes, *kinds)
        network = read(zipped(files, tmp_path / "model.zip", "model/"))
        assert [(value.name, value.shape) for value in network.outputs] == [("sentence_embedding", ("batch", 32))]
        ids, mask = torch.randint(0, 100, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
        mask[0, 4:] = 0
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            found = network.graph(ids, mask, torch.zeros_like(ids))
        if "pooling_mode_mean_tokens" in modes:
            texts = [row[kept.bool()].mean(0) for row, kept in zip(states, mask, strict=True)]
            wanted = nn.functional.normalize(torch.stack(texts), dim=-1)
        elif "pooling_mode" in modes:
            wanted = states[:, 0]
        else:
            wanted = torch.stack([row[kept.bool()].amax(0) for row, kept in zip(states, mask, strict=True)])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    def test_what_is_left_out_is_said(self, tmp_path: Path) -> None:
        _, files = self.write(tmp_path, {"pooling_mode": "mean"}, "Dense")
        description = inspect(files)
        assert description.outputs[0].name == "last_hidden_state"
        assert "Transformer, Pooling, Dense" in description.warnings[0]


class TestRefused:
    def test_code_of_its_own(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        config = json.loads(files["config.json"].read_text())
        config["auto_map"] = {"AutoModel": "evil.Model"}
        files["config.json"].write_text(json.dumps(config))
        assert refusal(files).code == "unsafe_file"
        with pytest.raises(ModelpressError, match="code of its own"):
            check(files)

    def test_a_type_that_is_not_listed(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        files["config.json"].write_text('{"model_type": "os", "architectures": ["system"]}')
        error = refusal(files)
        assert error.code == "unsupported_graph"
        assert "os" in error.detail

    def test_an_architecture_that_is_not_listed(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        config = json.loads(files["config.json"].read_text()) | {"architectures": ["BertForMaskedLM"]}
        files["config.json"].write_text(json.dumps(config))
        assert "BertForMaskedLM" in refusal(files).detail

    def test_a_missing_weight(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        weights = load_file(files["model.safetensors"])
        del weights["classifier.weight"]
        save_file(weights, files["model.safetensors"])
        error = refusal(files)
        assert error.code == "corrupt_file"
        assert error.node == "classifier.weight"

    def test_weights_of_other_shapes(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        config = json.loads(files["config.json"].read_text()) | {"intermediate_size": 48}
        files["config.json"].write_text(json.dumps(config))
        assert refusal(files).code == "unsupported_graph"

    def test_more_layers_than_any_network_has(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        config = json.loads(files["config.json"].read_text()) | {"num_hidden_layers": 10**9}
        files["config.json"].write_text(json.dumps(config))
        assert "num_hidden_layers" in refusal(files).detail

    def test_weights_that_are_quantized_already(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        config = json.loads(files["config.json"].read_text()) | {"quantization_config": {"bits": 4}}
        files["config.json"].write_text(json.dumps(config))
        assert "quantized already" in refusal(files).detail

    def test_weights_as_a_pickle_alone(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        files["pytorch_model.bin"] = files.pop("model.safetensors")
        for source in (files, zipped(files, tmp_path / "model.zip")):
            error = refusal(source)
            assert error.code == "unknown_format"
            assert "pickles (pytorch_model.bin)" in error.detail
            assert "import BertForSequenceClassification as M; M.from_pretrained" in error.hint
            assert refused_at_the_gate(source).code == "unknown_format"

    @pytest.mark.parametrize("with_index", [True, False])
    def test_a_missing_shard(self, with_index: bool, tmp_path: Path) -> None:
        files = save(bert(), tmp_path, max_shard_size="60KB")
        shards = sorted(name for name in files if name.endswith(".safetensors"))
        del files[shards[1]]
        if not with_index:
            del files["model.safetensors.index.json"]
        for source in (files, zipped(files, tmp_path / "model.zip", "model/")):
            error = refused_at_the_gate(source)
            assert error.code == "external_data"
            assert shards[1] in error.detail
            assert f"in {len(shards)} files, of which 1" in error.detail

    def test_weights_without_a_config(self, tmp_path: Path) -> None:
        files = save(bert(), tmp_path)
        del files["config.json"]
        files["tokenizer.json"] = tmp_path / "tokenizer.json"
        files["tokenizer.json"].write_text("{}")
        for source in (files, zipped(files, tmp_path / "model.zip")):
            error = refused_at_the_gate(source)
            assert error.code == "unknown_format"
            assert "no config.json" in error.detail
        files["adapter_config.json"] = files["tokenizer.json"]
        assert "merge_and_unload" in refused_at_the_gate(files).hint

    def test_a_damaged_zip(self, tmp_path: Path) -> None:
        path = zipped(save(bert(), tmp_path), tmp_path / "model.zip")
        content = bytearray(path.read_bytes())
        start = content.find(b"model.safetensors") + 1000
        content[start : start + 200] = bytes(200)
        path.write_bytes(bytes(content))
        assert refusal(path).code == "corrupt_file"


class TestHeader:
    @pytest.mark.parametrize(
        ("header", "data", "reason"),
        [
            (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234", None),
            (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"1234", "overlaps"),
            (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"12345678", "other bytes"),
            (
                b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
                b"123456",
                "overlaps",
            ),
            (b'{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}', b"1234", "not valid"),
            (b'{"a":1,"a":2}', b"", "twice"),
            (b"[1]", b"", "none"),
            (b'{"a":' * 50_000, b"", "recursion"),
        ],
    )
    def test_it_is_checked(self, header: bytes, data: bytes, reason: str | None, tmp_path: Path) -> None:
        config = tmp_path / "config.json"
        config.write_text('{"model_type": "bert"}')
        path = tmp_path / "model.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + data)
        files = {"config.json": config, "model.safetensors": path}
        for source in (files, zipped(files, tmp_path / "model.zip", "model/")):
            if reason is None:
                assert check(source) == "hf"
                continue
            with pytest.raises(ModelpressError, match=reason):
                check(source)

    def test_a_huge_header_is_not_read(self, tmp_path: Path) -> None:
        config = tmp_path / "config.json"
        config.write_text("{}")
        path = tmp_path / "model.safetensors"
        with path.open("wb") as file:
            file.write((2**31).to_bytes(8, "little"))
            file.truncate(2**32)
        with pytest.raises(ModelpressError, match="header"):
            check({"config.json": config, "model.safetensors": path})
