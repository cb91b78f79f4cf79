import numpy as np
import pytest
import torch

from core.data.dataset import open_dataset
from core.data.inspection import describe_dataset
from core.description import DatasetSpec, FractionSplits, InputMapping, SplitArrays, TensorDescription
from core.errors import ModelpressError

IMAGE = (TensorDescription(name="image", dtype="float32", shape=("batch", 3, 4, 5)),)
TEXT = (TensorDescription(name="ids", dtype="int64", shape=("batch", 8)),)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def images(tmp_path, rng):
    path = tmp_path / "images.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 255, (100, 4, 5, 3)).astype(np.uint8),
        y_train=rng.integers(0, 7, 100),
        x_test=rng.integers(0, 255, (30, 4, 5, 3)).astype(np.uint8),
        y_test=np.arange(30) % 7,
    )
    return path


def image_spec(**changes):
    given = {
        "task": "classification",
        "inputs": {"x": InputMapping(layout="NHWC", scale=0.5, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))},
        "splits": {
            "train": SplitArrays(x="x_train", y="y_train"),
            "evaluation": SplitArrays(x="x_test", y="y_test"),
        },
    }
    return DatasetSpec(**(given | changes))


def fails(paths, spec, inputs=None, **more):
    with pytest.raises(ModelpressError) as caught:
        open_dataset(paths, spec, inputs, **more)
    assert caught.value.code == "invalid_data"
    return caught.value.detail


def test_images_are_laid_out_scaled_and_normalised(images):
    dataset = open_dataset([images], image_spec(), IMAGE)
    batches = list(dataset.batches("evaluation", 8))
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 6]
    raw = np.load(images)["x_test"].astype(np.float32)
    wanted = (raw * 0.5 - np.array([1, 2, 3])) / np.array([1, 2, 4])
    got = torch.cat([batch.inputs["image"] for batch in batches])
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), wanted.transpose(0, 3, 1, 2), rtol=1e-6)
    assert torch.cat([batch.labels for batch in batches]).tolist() == [row % 7 for row in range(30)]
    assert dataset.classes == 7


def test_limit_gives_the_first_samples(images):
    dataset = open_dataset([images], image_spec(), IMAGE)
    whole = torch.cat([batch.inputs["image"] for batch in dataset.batches("calibration", 16)])
    part = torch.cat([batch.inputs["image"] for batch in dataset.batches("calibration", 4, limit=10)])
    assert torch.equal(part, whole[:10])


def test_calibration_and_validation_come_from_train_and_validation_leaves_it(images):
    splits = open_dataset([images], image_spec(), IMAGE).splits
    assert all(splits[name].samples is splits["train"].samples for name in ("calibration", "validation"))
    validation, train = set(splits["validation"].rows), set(splits["train"].rows)
    assert len(validation) == 10
    assert not validation & train
    assert validation | train == set(range(100))
    assert set(splits["calibration"].rows) == train
    again = open_dataset([images], image_spec(), IMAGE).splits
    for name in splits:
        np.testing.assert_array_equal(splits[name].rows, again[name].rows)


def test_nothing_is_drawn_from_evaluation(images):
    dataset = open_dataset([images], image_spec(splits={"evaluation": SplitArrays(x="x_test", y="y_test")}), IMAGE)
    assert set(dataset.splits) == {"evaluation"}
    with pytest.raises(ModelpressError, match="no calibration split") as caught:
        next(dataset.batches("calibration", 1))
    assert caught.value.code == "missing_data"


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        ({"train": 0.7, "validation": 0.1, "evaluation": 0.2}, (70, 10, 20)),
        ({"evaluation": 0.2}, (72, 8, 20)),
        ({"train": 0.5, "evaluation": 0.2}, (45, 5, 20)),
    ],
)
def test_fractions_are_disjoint_and_seeded(images, fractions, sizes):
    def rows(seed):
        splits = FractionSplits(x="x_train", y="y_train", fractions=fractions, seed=seed)
        dataset = open_dataset([images], image_spec(splits=splits), IMAGE)
        return [dataset.splits[name].rows for name in ("train", "validation", "evaluation")]

    first = rows(0)
    assert tuple(len(part) for part in first) == sizes
    together = np.concatenate(first)
    assert len(set(together)) == len(together)
    assert all(np.array_equal(a, b) for a, b in zip(first, rows(0), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, rows(1), strict=True))
    # The evaluation rows are the end of the plain permutation, which anyone can draw again.
    np.testing.assert_array_equal(first[2], np.random.default_rng(0).permutation(100)[80:])


@pytest.mark.parametrize("fractions", [{"train": 0.9, "evaluation": 0.2}, {"train": -0.1}])
def test_impossible_fractions_are_refused(images, fractions):
    splits = FractionSplits(x="x_train", y="y_train", fractions=fractions)
    assert "add up" in fails([images], image_spec(splits=splits))


def test_text_is_cut_into_windows_with_the_next_token_as_label(tmp_path):
    np.savez(tmp_path / "t.npz", train=np.arange(100, dtype=np.uint8) % 50, test=np.arange(40, dtype=np.uint8))
    spec = DatasetSpec(
        task="language_modelling", splits={"train": SplitArrays(x="train"), "evaluation": SplitArrays(x="test")}
    )
    dataset = open_dataset([tmp_path / "t.npz"], spec, TEXT)
    batch = next(dataset.batches("evaluation", 10))
    assert batch.inputs["ids"].dtype == torch.int64
    assert batch.inputs["ids"][1].tolist() == list(range(8, 16))
    assert batch.labels[1].tolist() == list(range(9, 17))
    assert dataset.count("evaluation") == 4  # 39 tokens have a successor: 4 whole windows of 8
    described = describe_dataset([tmp_path / "t.npz"], spec)
    assert described.splits["evaluation"].samples == 39
    assert described.classes == 50
    vocabulary = (TensorDescription(name="logits", dtype="float32", shape=("batch", 8, 40)),)
    assert "from 0 to 39" in fails([tmp_path / "t.npz"], spec, TEXT, outputs=vocabulary)


def test_text_shorter_than_the_context_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", test=np.arange(8))
    spec = DatasetSpec(task="language_modelling", splits={"evaluation": SplitArrays(x="test")})
    assert "context of 8" in fails([tmp_path / "t.npz"], spec, TEXT)


def test_regression_and_unlabelled_samples(tmp_path, rng):
    x = rng.normal(size=(20, 3)).astype(">f8")
    np.savez(tmp_path / "r.npz", x=x, y=rng.normal(size=(20, 2)))
    inputs = (TensorDescription(name="in", dtype="float32", shape=("batch", 3)),)
    spec = DatasetSpec(task="regression", splits={"evaluation": SplitArrays(x="x", y="y")})
    batch = next(open_dataset([tmp_path / "r.npz"], spec, inputs).batches("evaluation", 20))
    assert batch.labels.shape == (20, 2)
    assert batch.labels.dtype == torch.float32
    np.testing.assert_allclose(batch.inputs["in"].numpy(), x, rtol=1e-6)
    spec = DatasetSpec(task="none", splits={"calibration": SplitArrays(x="x")})
    dataset = open_dataset([tmp_path / "r.npz"], spec, inputs)
    assert next(dataset.batches("calibration", 2)).labels is None
    assert not dataset.labelled("calibration")


def test_two_files_make_one_data_set(tmp_path, rng):
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(5, 3)))
    np.savez(tmp_path / "y.npz", y=np.arange(5) % 2)
    spec = DatasetSpec(task="classification", splits={"evaluation": SplitArrays(x="x", y="y")})
    assert open_dataset([tmp_path / "x.npz", tmp_path / "y.npz"], spec).classes == 2
    np.savez(tmp_path / "again.npz", x=np.zeros((5, 3)))
    paths = [tmp_path / name for name in ("x.npz", "y.npz", "again.npz")]
    assert "two files" in fails(paths, spec)


def test_bad_values_are_named_with_their_row(tmp_path):
    x = np.zeros((10, 3), np.float32)
    x[7, 1] = np.nan
    wide = np.zeros((10, 3))
    wide[4] = 1e300
    y = np.arange(10)
    np.savez(
        tmp_path / "b.npz",
        x=x,
        wide=wide,
        y=y,
        negative=y - 3,
        real=y / 2,
        short=y[:9],
        hot=np.eye(10),
        codes=np.eye(10, dtype=int),
        z=wide * 0,
    )

    def detail(x, y, **more):
        spec = DatasetSpec(task="classification", splits={"evaluation": SplitArrays(x=x, y=y)})
        return fails([tmp_path / "b.npz"], spec, **more)

    outputs = (TensorDescription(name="logits", dtype="float32", shape=("batch", 6)),)
    assert detail("x", "y").startswith("Row 7 of `x` has a NaN")
    assert detail("wide", "y").startswith("Row 4 of `wide`")
    assert "Label -3 in row 0 of `negative`" in detail("z", "negative")
    assert "Label 6 in row 6 of `y` is not allowed: it must be from 0 to 5" in detail("z", "y", outputs=outputs)
    assert "class numbers are needed" in detail("z", "real")
    assert "10 samples but there are 9 labels" in detail("z", "short")
    assert "class numbers are needed" in detail("z", "hot")
    assert "one class number for each sample" in detail("z", "codes")
    assert "Arrays found: codes, hot, negative, real" in detail("missing", "y")


def test_shapes_that_do_not_fit_are_refused(images):
    flat = (TensorDescription(name="x", dtype="float32", shape=("batch", 60)),)
    assert "(3, 4, 5) after layout NHWC" in fails([images], image_spec(), flat)
    as_is = image_spec(inputs={"x": InputMapping(layout="NHW")})
    assert "needs an array of 3 dimensions; this one is 100×4×5×3" in fails([images], as_is)
    assert "`mean` has 2 values; 1 or 3" in fails(
        [images], image_spec(inputs={"x": InputMapping(layout="NHWC", mean=(0.5, 0.5))})
    )
    assert "must not be 0" in fails([images], image_spec(inputs={"x": InputMapping(layout="NHWC", std=(0.0,))}))
    two = (*IMAGE, TensorDescription(name="mask", dtype="float32", shape=("batch", 3)))
    assert "2 inputs (image, mask) and array `x_train` can feed one" in fails([images], image_spec(), two)


def test_floats_cannot_feed_token_ids(tmp_path):
    np.savez(tmp_path / "t.npz", test=np.arange(40) / 2)
    spec = DatasetSpec(task="language_modelling", splits={"evaluation": SplitArrays(x="test")})
    assert "integer" in fails([tmp_path / "t.npz"], spec, TEXT)


def test_overlap_of_evaluation_and_train_is_counted_and_told(tmp_path, rng):
    train = rng.integers(0, 255, (50, 6)).astype(np.uint8)
    test = rng.integers(0, 255, (20, 6)).astype(np.uint8)
    test[:3] = train[[4, 4, 40]]
    np.savez(tmp_path / "o.npz", x=train, x_test=test)
    spec = DatasetSpec(task="none", splits={"train": SplitArrays(x="x"), "evaluation": SplitArrays(x="x_test")})
    assert open_dataset([tmp_path / "o.npz"], spec).overlap() == 3
    assert describe_dataset([tmp_path / "o.npz"], spec).warnings[0].startswith("3 of the 20 evaluation samples")


def test_description(images):
    described = describe_dataset([images], image_spec())
    assert described.inputs[0].shape == ("batch", 3, 4, 5)
    assert {name: split.samples for name, split in described.splits.items()} == {
        "train": 90,
        "calibration": 90,
        "validation": 10,
        "evaluation": 30,
    }
    assert described.splits["evaluation"].labelled
    assert described.warnings == ()
    unevaluated = describe_dataset([images], image_spec(splits={"train": SplitArrays(x="x_train", y="y_train")}))
    assert "no evaluation split" in unevaluated.warnings[0]
