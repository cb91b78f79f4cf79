import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import similarity
from core.data.dataset import open_dataset
from core.data.inspection import describe_dataset
from core.data.similarity import PIECE_CHARACTERS, count_near_duplicates
from core.description import DatasetSpec, InputMapping
from tests.core.data.conftest import encode

DEMO = Path(__file__).parents[3] / "demo" / "mnist.npz"


def smooth(rng, count, side=32):
    """Images of a few soft blobs."""
    small = rng.integers(0, 255, (count, 6, 6, 3)).astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in small]
    )


def test_images_that_were_stored_again_are_found(image_zip, rng):
    images = smooth(rng, 60)
    entries = [(f"train/a/{place}.png", encode(pixels)) for place, pixels in enumerate(images[:40])]
    # Five of the test images are training images as JPEG, the others are new.
    entries += [(f"test/a/{place}.jpg", encode(pixels, "JPEG")) for place, pixels in enumerate(images[35:])]
    file = image_zip(entries)
    found = count_near_duplicates(open_dataset([file], DatasetSpec(task="classification")))
    assert found.compared == 25
    assert 3 <= found.found <= 5
    warnings = describe_dataset([file], DatasetSpec(task="classification")).warnings
    assert any("nearly the same" in warning and "difference hash" in warning for warning in warnings)


def test_strokes_that_are_alike_anyway_are_no_twins_but_stored_again_they_are(tmp_path):
    with np.load(DEMO) as demo:
        train, test = demo["x_train"], demo["x_test"]
    again = [np.asarray(Image.open(io.BytesIO(encode(digit, "JPEG")))) for digit in test[:60]]
    counts = []
    for name, samples in (("as shipped", train), ("with copies", np.concatenate([train, again]))):
        np.savez(tmp_path / f"{name}.npz", x_train=samples, x_test=test)
        spec = DatasetSpec(task="none", inputs={"x": InputMapping(layout="NHW")})
        counts.append(count_near_duplicates(open_dataset([tmp_path / f"{name}.npz"], spec)))
    assert counts[0].found <= 2
    assert {twin.row for twin in counts[1].twins} <= {*range(60), *(twin.row for twin in counts[0].twins)}
    # JPEG leaves no two rows of cells of about a third of the digits as they were.
    assert counts[1].found >= counts[0].found + 25


def test_noise_and_rows_of_numbers_have_no_twins(tmp_path, rng):
    np.savez(tmp_path / "n.npz", x_train=rng.normal(size=(200, 16, 16)), x_test=rng.normal(size=(50, 16, 16)))
    spec = DatasetSpec(task="none", inputs={"x": InputMapping(layout="NHW")})
    assert count_near_duplicates(open_dataset([tmp_path / "n.npz"], spec)).found == 0
    np.savez(tmp_path / "t.npz", x_train=rng.normal(size=(200, 3)), x_test=rng.normal(size=(50, 3)))
    assert count_near_duplicates(open_dataset([tmp_path / "t.npz"], DatasetSpec(task="none"))) is None


def test_texts_with_a_few_other_words_are_found(text_file, rng):
    words = np.array([f"word{place}" for place in range(500)])
    texts = [" ".join(rng.choice(words, 60)) for _ in range(100)]
    changed = [text.replace(" word1 ", " other ") + " extra!" for text in texts[:10]]
    new = [" ".join(rng.choice(words, 60)) for _ in range(30)]
    files = [text_file("train.txt", "\n".join(texts)), text_file("test.txt", "\n".join([*changed, *new]))]
    found = count_near_duplicates(open_dataset(files, DatasetSpec(task="none")))
    assert (found.compared, found.method) == (40, "MinHash of words")
    assert 8 <= found.found <= 10


@pytest.mark.parametrize("shared", [0, 320])
def test_passages_of_long_texts_are_found(tmp_path, rng, shared):
    train = rng.integers(0, 90, 5000)
    test = rng.integers(0, 90, 1600)
    test[: shared + 31] = train[777 : 777 + shared + 31] if shared else test[: shared + 31]
    np.savez(tmp_path / "t.npz", train=train, test=test)
    found = count_near_duplicates(open_dataset([tmp_path / "t.npz"], DatasetSpec(task="language_modelling")))
    assert (found.found, found.compared) == (shared // 32, 50)
    places = [(twin.row, twin.split, twin.other_row) for twin in found.twins]
    assert places == [(32 * number, "train", 777 + 32 * number) for number in range(shared // 32)]
    warnings = describe_dataset([tmp_path / "t.npz"], DatasetSpec(task="language_modelling")).warnings
    assert any("such as token 0, which is token 777 of train" in warning for warning in warnings) == bool(shared)


def test_copies_are_told_with_their_rows_and_classes_are_counted(tmp_path, rng):
    x, y = rng.normal(size=(50, 4)).astype(np.float32), np.arange(50) % 3
    test = np.concatenate([rng.normal(size=(3, 4)).astype(np.float32), x[[17, 17, 4]]])
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=test, y_test=np.array([0, 0, 2, 1, 1, 1]))
    found = describe_dataset([tmp_path / "d.npz"], DatasetSpec(task="classification"))
    assert {(twin.row, twin.other_row, twin.exact) for twin in found.twins} == {
        (3, 17, True),
        (4, 17, True),
        (5, 4, True),
    }
    assert found.warnings[0].startswith("3 of the 6 evaluation samples are also in another split, such as row ")
    assert found.splits["evaluation"].per_class == (2, 3, 1)
    assert sum(found.splits["train"].per_class) == 45


def test_a_near_twin_is_told_with_its_rows(text_file, rng):
    words = np.array([f"word{place}" for place in range(500)])
    texts = [" ".join(rng.choice(words, 60)) for _ in range(20)]
    files = [text_file("train.txt", "\n".join(texts)), text_file("test.txt", f"quite other words\n{texts[7]} extra")]
    (twin,) = describe_dataset(files, DatasetSpec(task="none")).twins
    assert (twin.row, twin.other_row, twin.exact) == (1, 7, False)


def test_long_texts_are_compared_to_their_end(text_file, rng):
    words = np.array([f"word{place}" for place in range(500)])
    shared, one, other = (" ".join(rng.choice(words, 3000)) for _ in range(3))
    cut = 4 * PIECE_CHARACTERS
    assert min(map(len, (shared, one, other))) > cut
    # What both share begins after four pieces that they do not.
    files = [text_file("train.txt", one[:cut] + shared), text_file("test.txt", f"few words\n{other[:cut] + shared}")]
    found = count_near_duplicates(open_dataset(files, DatasetSpec(task="none")))
    assert (found.found, found.compared) == (1, 2)
    assert (found.twins[0].row, found.twins[0].other_row) == (1, 0)


def test_of_many_long_texts_no_more_is_held_than_of_short_ones(monkeypatch, text_file, rng):
    monkeypatch.setattr(similarity, "MOST", 40)
    words = np.array([f"word{place}" for place in range(500)])
    texts = [" ".join(rng.choice(words, 3000)) for _ in range(20)]
    dataset = open_dataset([text_file("test.txt", "\n".join(texts))], DatasetSpec(task="none"))
    (split,) = dataset.splits.values()
    parts = list(similarity._sign_texts(split, next(iter(split.samples.columns))))
    assert sum(len(rows) for rows, _, _ in parts) == 40
    assert {row for rows, _, _ in parts for row in rows.tolist()} == set(range(20))
