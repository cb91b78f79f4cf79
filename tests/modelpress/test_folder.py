"""Which files `modelpress upload FOLDER` sends, and what it says where there is no model."""

from pathlib import Path

import pytest

from core.errors import ModelpressError
from core.messages import StagedFile
from core.network.upload import staged_by_name
from modelpress.folder import files_of


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    return path


SETTINGS = ("config.json", "modules.json", "tokenizer.json", "vocab.txt")
OTHERS = (".gitattributes", "README.md", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "train_script.py")


@pytest.mark.parametrize(
    ("names", "sent"),
    [
        (("model.safetensors", "model.fp16.safetensors"), {"model.safetensors"}),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
            {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"},
        ),
        (("model.safetensors", "1_Pooling/config.json"), {"model.safetensors", "1_Pooling/config.json"}),
    ],
)
def test_a_hugging_face_folder(names: tuple[str, ...], sent: set[str], tmp_path: Path) -> None:
    found = files_of([folder(tmp_path / "model", *SETTINGS, *OTHERS, *names)])
    assert {file.name for file in found} == sent | set(SETTINGS)
    assert all(file.path == tmp_path / "model" / file.name for file in found)


def test_an_onnx_folder_goes_with_its_data(tmp_path: Path) -> None:
    names = {"model.onnx", "model.onnx_data", "tokenizer.json"}
    assert {file.name for file in files_of([folder(tmp_path, *names, ".cache")])} == names


def test_files_are_sent_as_they_are_named(tmp_path: Path) -> None:
    folder(tmp_path, "a.onnx", "a.data")
    assert [file.name for file in files_of([tmp_path / "a.onnx", tmp_path / "a.data"])] == ["a.onnx", "a.data"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("config.json", "pytorch_model.bin"), "no .safetensors weights"),
        (("a.onnx", "b.onnx"), "holds 2 networks"),
        (("readme.txt",), "holds no model"),
    ],
)
def test_a_folder_without_a_model_says_what_to_do(names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelpressError, match=words) as raised:
        files_of([folder(tmp_path, *names)])
    assert raised.value.code == "unknown_format"
    assert raised.value.hint


def staged(*names: str) -> list[StagedFile]:
    return [StagedFile(path=f"/cache/{name}", filename=name, sha256="", bytes=0) for name in names]


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    assert set(staged_by_name(staged("1_Pooling/config.json", "config.json"))) == {
        "config.json",
        "1_Pooling/config.json",
    }
    assert set(staged_by_name(staged("weights/a.data", "b.onnx"))) == {"a.data", "b.onnx"}
    with pytest.raises(ModelpressError, match=r"named config\.json"):
        staged_by_name(staged("config.json", "config.json"))
