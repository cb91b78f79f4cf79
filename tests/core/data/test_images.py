import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from core.data.dataset import open_dataset
from core.data.inspection import describe_dataset
from core.data.source import DataFile
from core.description import DatasetSpec, InputMapping, TensorDescription
from core.errors import ModelpressError
from tests.core.data.conftest import encode

SPEC = DatasetSpec(task="classification")


def folder(pictures, *splits):
    """Pictures in turn to the classes cat, dog, owl of every split."""
    for place, pixels in enumerate(pictures):
        split = splits[place % len(splits)] if splits else None
        parts = ["data", *([split] if split else []), ("cat", "dog", "owl")[place % 3], f"{place:03}.png"]
        yield "/".join(parts), encode(pixels)


def fails(files, spec=SPEC):
    with pytest.raises(ModelpressError) as caught:
        describe_dataset(files, spec)
    assert caught.value.code == "invalid_data"
    return caught.value.detail


def test_folders_are_classes_and_splits(image_zip, pictures):
    file = image_zip([*folder(pictures, "train", "test"), ("data/README.txt", b"hello"), ("__MACOSX/a.png", b"")])
    found = describe_dataset([file], SPEC)
    assert (found.format, found.classes, found.label_names) == ("images", 3, ("cat", "dog", "owl"))
    assert found.inputs[0].shape == ("batch", 3, 10, 12)
    assert found.splits["evaluation"].samples == 12
    assert found.splits["train"].samples + found.splits["validation"].samples == 12
    assert found.reading["evaluation"].x == "evaluation/image"
    assert any("1 files in the zip are no" in warning for warning in found.warnings)
    dataset = open_dataset([file], SPEC)
    batch = next(dataset.batches("evaluation", 12))
    by_name = dict(folder(pictures, "train", "test"))
    names = sorted(name for name in by_name if "/test/" in name)
    for name, got, label in zip(names, batch.inputs["x"], batch.labels, strict=True):
        wanted = np.asarray(Image.open(io.BytesIO(by_name[name])))
        np.testing.assert_array_equal(got.numpy().transpose(1, 2, 0), wanted)
        assert ("cat", "dog", "owl")[label] == name.split("/")[2]


def test_one_folder_without_splits_is_divided_by_content(image_zip, pictures):
    found = describe_dataset([image_zip(folder(pictures))], SPEC)
    assert sum(found.splits[name].samples for name in ("train", "validation", "evaluation")) == 24
    assert found.reading.by == "content"


def test_images_are_brought_to_one_size(image_zip, rng):
    big = rng.integers(0, 255, (40, 20, 3)).astype(np.uint8)
    entries = [("train/a/0.png", encode(big)), ("train/b/1.jpg", encode(big[:30], "JPEG"))]
    assert "has 20×30 pixels; the first has 20×40" in fails([image_zip(entries)])
    mapping = InputMapping(size=(8, 8), resize=10, scale=1 / 255)
    spec = SPEC.model_copy(update={"inputs": {"x": mapping}})
    found = describe_dataset([image_zip(entries)], spec)
    assert found.inputs[0].shape == ("batch", 3, 8, 8)
    batch = next(open_dataset([image_zip(entries)], spec).batches("train", 2))
    wanted = Image.fromarray(big).resize((10, 20), Image.Resampling.BILINEAR).crop((1, 6, 9, 14))
    np.testing.assert_allclose(
        batch.inputs["x"][int(batch.labels.argmin())].numpy(), np.asarray(wanted).transpose(2, 0, 1) / 255, rtol=1e-5
    )


def test_grey_images_have_one_channel_and_none_need_a_class(image_zip, pictures):
    entries = [(f"{place}.png", encode(pixels[:, :, 0])) for place, pixels in enumerate(pictures)]
    found = describe_dataset([image_zip(entries)], DatasetSpec(task="none"))
    assert found.inputs[0].shape == ("batch", 1, 10, 12)
    assert not any(split.labelled for split in found.splits.values())
    wanted = (TensorDescription(name="x", dtype="float32", shape=("batch", 3, 10, 12)),)
    with pytest.raises(ModelpressError, match="wants"):
        open_dataset([image_zip(entries)], DatasetSpec(task="none"), wanted)


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("BMP", {}), ("PNG", {})])
def test_kinds_without_loss_are_read_as_they_were_stored(image_zip, parquet_file, pictures, kind, options):
    stored = [io.BytesIO() for _ in pictures]
    for pixels, buffer in zip(pictures, stored, strict=True):
        Image.fromarray(pixels).save(buffer, kind, **options)
    suffix = kind if kind == "BMP" else kind.lower()
    entries = [(f"test/a/{place:02}.{suffix}", each.getvalue()) for place, each in enumerate(stored)]
    table = parquet_file("test.parquet", {"image": [{"bytes": content, "path": name} for name, content in entries]})
    for file in (image_zip(entries), table):
        batch = next(open_dataset([file], DatasetSpec(task="none")).batches("evaluation", 24))
        np.testing.assert_array_equal(batch.inputs["x"].numpy().transpose(0, 2, 3, 1), pictures)


def test_grey_bmp_and_the_first_picture_of_an_animation(image_zip, pictures):
    grey = [(f"{place}.bmp", encode(pixels[:, :, 0].copy(), "BMP")) for place, pixels in enumerate(pictures)]
    assert describe_dataset([image_zip(grey)], DatasetSpec(task="none")).inputs[0].shape == ("batch", 1, 10, 12)
    moving = io.BytesIO()
    first, *others = map(Image.fromarray, pictures[:3])
    first.save(moving, "WEBP", save_all=True, append_images=others, lossless=True)
    file = image_zip([("test/a/0.webp", moving.getvalue())])
    found = next(open_dataset([file], SPEC).batches("evaluation", 1)).inputs["x"][0].numpy()
    np.testing.assert_array_equal(found.transpose(1, 2, 0), pictures[0])


def test_a_preprocessor_beside_the_images_is_followed(image_zip, text_file, pictures):
    settings = text_file(
        "preprocessor_config.json",
        '{"do_resize": true, "size": {"height": 6, "width": 6}, "resample": 3, "do_rescale": true, '
        '"rescale_factor": 0.5, "do_normalize": true, "image_mean": [1, 2, 3], "image_std": [2, 2, 2]}',
    )
    file = image_zip([("test/a/0.png", encode(pictures[0]))])
    got = next(open_dataset([file, settings], SPEC).batches("evaluation", 1)).inputs["x"][0].numpy()
    small = np.asarray(Image.fromarray(pictures[0]).resize((6, 6), Image.Resampling.BICUBIC)).astype(np.float32)
    np.testing.assert_allclose(got, ((small * 0.5 - [1, 2, 3]) / 2).transpose(2, 0, 1), rtol=1e-5)
    # A preprocessor of the model serves as well, and does not overrule what comes with the data.
    beside = open_dataset([file], SPEC, beside=[settings])
    np.testing.assert_array_equal(next(beside.batches("evaluation", 1)).inputs["x"][0].numpy(), got)


def test_broken_images_are_named(image_zip, pictures, rng):
    good = encode(pictures[0])
    deep = rng.integers(0, 60_000, (10, 12)).astype(np.uint16)
    for content, reason in (
        (b"no image", "is no PNG, JPEG, WebP or BMP image"),
        (good[:200], "is damaged or cut short"),
        (encode(deep), "has more than 8 bits"),
        (encode(pictures[0], "TIFF"), "is no PNG, JPEG, WebP or BMP image"),
        (encode(pictures[0], "WEBP")[:100], "is no PNG, JPEG, WebP or BMP image"),
        (encode(pictures[0], "BMP")[:100], "is damaged or cut short"),
    ):
        entries = [("a/0.png", good), ("a/1.png", content), ("b/2.png", good)]
        assert f"(`a/1.png`) {reason}" in fails([image_zip(entries)])
    assert "in no class folder" in fails([image_zip([("0.png", good), ("b/2.png", good)])])
    assert "neither arrays" in fails([image_zip([("a.txt", b"x")])])


def test_bombs_and_damage_are_refused(image_zip, pictures, tmp_path):
    bomb = zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED)
    with bomb, bomb.open("a/0.png", "w") as stream:
        for _ in range(70):
            stream.write(bytes(1 << 20))
    assert "unpacks to" in fails([DataFile(tmp_path / "bomb.zip", "bomb.zip")])
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "PNG")
    assert "are allowed" in fails([image_zip([("a/0.png", encode(pictures[0])), ("a/1.png", huge.getvalue())])])
    # A canvas of 268 million pixels that a file of 300 bytes declares, and a bitmap of as many.
    webp = encode(pictures[0], "WEBP")[12:]
    canvas = b"VP8X" + struct.pack("<II", 10, 2) + (16_382).to_bytes(3, "little") * 2
    frame = struct.pack("<II", 0, 0)[:6] + (11).to_bytes(3, "little") + (9).to_bytes(3, "little") + bytes(4) + webp
    body = b"WEBP" + canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    bitmap = bytearray(encode(pictures[0], "BMP"))
    bitmap[18:26] = struct.pack("<ii", 16_383, 16_383)
    for bomb in (b"RIFF" + struct.pack("<I", len(body)) + body, bytes(bitmap)):
        assert "are allowed" in fails([image_zip([("a/0.png", encode(pictures[0])), ("a/1.webp", bomb)])])
    whole = image_zip(folder(pictures))
    content = whole.path.read_bytes()
    for cut in (len(content) // 2, len(content) - 30):
        (tmp_path / "cut.zip").write_bytes(content[:cut])
        assert "cut short" in fails([DataFile(tmp_path / "cut.zip", "cut.zip")])
    middle = bytearray(content)
    middle[300] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(middle)
    assert "damaged" in fails([DataFile(tmp_path / "flipped.zip", "flipped.zip")])
