import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from core.data.dataset import open_dataset
from core.description import DatasetSpec, SplitArrays
from core.errors import ModelpressError
from core.measure.quality import compare_quality


@pytest.fixture
def dataset(tmp_path):
    def make(task, x, y=None):
        arrays = {"x": x} if y is None else {"x": x, "y": y}
        np.savez(tmp_path / "data.npz", **arrays)
        split = SplitArrays(x="x", y=None if y is None else "y")
        return open_dataset([tmp_path / "data.npz"], DatasetSpec(task=task, splits={"evaluation": split}))

    return make


def one_hot(classes, count):
    return np.eye(count, dtype=np.float32)[np.asarray(classes)]


def test_accuracy_counts_what_was_lost_and_gained(dataset, linear_file):
    # The original answers the class that is fed; the result takes class 2 for class 1.
    original = linear_file("a.onnx", np.eye(3))
    result = linear_file("b.onnx", np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]]))
    fed = np.repeat([0, 1, 2], [70, 20, 110])
    labels = fed.copy()
    labels[70:75] = 2  # of the 20 samples of class 1, five are labelled 2: the result gains them
    found = compare_quality(original, result, dataset("classification", one_hot(fed, 3), labels), threads=1)
    assert found.original.value == pytest.approx(195 / 200)
    assert found.result.value == pytest.approx(185 / 200)
    assert (found.change.lost, found.change.gained, found.change.test) == (15, 5, "mcnemar")
    assert found.change.delta == pytest.approx(-0.05)
    assert found.change.agreement == pytest.approx(180 / 200)
    assert found.original.n == 200
    assert found.original.low < found.original.value < found.original.high
    assert found.divergence > 0


def test_a_file_against_itself(dataset, linear_file):
    path = linear_file("a.onnx", np.eye(4))
    data = dataset("classification", one_hot([0, 1, 2, 3] * 40, 4), np.array([0, 1, 2, 0] * 40))
    found = compare_quality(path, path, data, threads=1)
    assert (found.change.delta, found.change.p, found.change.agreement, found.sqnr_db) == (0, 1, 1, 200)
    assert found.divergence == 0


def test_unlabelled_classes_are_judged_by_agreement(dataset, linear_file):
    original, result = linear_file("a.onnx", np.eye(2)), linear_file("b.onnx", np.array([[1, 0], [2, 0]]))
    found = compare_quality(original, result, dataset("classification", one_hot([0] * 75 + [1] * 25, 2)), threads=1)
    assert (found.result.metric, found.result.value, found.original.value) == ("agreement", 0.75, 1.0)
    assert (found.change.test, found.change.delta, found.change.p) == ("none", -0.25, 1.0)
    assert found.change.low < -0.25 < found.change.high
    assert found.change.lost is None


def test_regression_is_mean_squared_error(dataset, linear_file):
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    original, result = linear_file("a.onnx", np.array([[1], [0]])), linear_file("b.onnx", np.array([[1], [0.5]]))
    found = compare_quality(original, result, dataset("regression", x, x[:, 0]), threads=1)
    assert found.original.value == pytest.approx(0)
    assert found.result.value == pytest.approx((0.25 * x[:, 1] ** 2).mean(), rel=1e-5)
    assert not found.result.higher_is_better
    assert found.change.test == "bootstrap"
    assert found.change.p < 0.01
    assert found.sqnr_db == pytest.approx(10 * math.log10((x[:, 0] ** 2).sum() / (0.25 * x[:, 1] ** 2).sum()), rel=1e-4)


def test_unlabelled_regression_is_relative_error(dataset, linear_file):
    x = np.ones((120, 2), np.float32)
    original, result = linear_file("a.onnx", np.eye(2)), linear_file("b.onnx", 1.1 * np.eye(2))
    found = compare_quality(original, result, dataset("none", x), threads=1)
    assert (found.result.metric, found.original.value) == ("relative_error", 0)
    assert found.result.value == pytest.approx(0.1, rel=1e-5)
    assert found.divergence is None


def test_text_is_bits_per_token(tmp_path, onnx_file):
    def file(name, table):
        return onnx_file(
            name,
            [helper.make_node("Gather", ["table", "ids"], ["logits"])],
            {"ids": (TensorProto.INT64, ["batch", 8])},
            {"logits": (TensorProto.FLOAT, ["batch", 8, 4])},
            {"table": table.astype(np.float32)},
        )

    np.savez(tmp_path / "t.npz", test=np.arange(801) % 4)
    spec = DatasetSpec(task="language_modelling", splits={"evaluation": SplitArrays(x="test")})
    from core.description import TensorDescription

    inputs = (TensorDescription(name="ids", dtype="int64", shape=("batch", 8)),)
    data = open_dataset([tmp_path / "t.npz"], spec, inputs)
    # Uniform logits cost two bits a token; a table that knows the next token costs none.
    found = compare_quality(
        file("a.onnx", np.zeros((4, 4))), file("b.onnx", 50 * np.roll(np.eye(4), 1, axis=1)), data, threads=1
    )
    assert found.original.value == pytest.approx(2)
    assert found.result.value == pytest.approx(0, abs=1e-9)
    assert found.token_accuracy == (pytest.approx(0.25), 1.0)
    assert found.result.n == 100
    assert found.change.delta == pytest.approx(-2)


def test_a_file_bound_to_its_batch_gives_the_same_figures(dataset, linear_file):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(130, 5)), rng.integers(0, 3, 130)
    data = dataset("classification", x, labels)
    one, other = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    free = compare_quality(linear_file("a.onnx", one), linear_file("b.onnx", other), data, threads=1)
    bound = compare_quality(linear_file("c.onnx", one, batch=7), linear_file("d.onnx", other, batch=7), data, threads=1)
    assert bound.original == free.original
    assert bound.result == free.result
    assert (bound.change.lost, bound.change.gained) == (free.change.lost, free.change.gained)


def test_nan_and_missing_evaluation_are_errors(tmp_path, dataset, linear_file):
    path, broken = linear_file("a.onnx", np.eye(2)), linear_file("b.onnx", np.full((2, 2), np.nan))
    data = dataset("classification", one_hot([0, 1], 2), np.array([0, 1]))
    with pytest.raises(ModelpressError, match="NaN or infinity") as caught:
        compare_quality(path, broken, data, threads=1)
    assert caught.value.code == "non_finite"
    np.savez(tmp_path / "only.npz", x=np.eye(2))
    spec = DatasetSpec(task="none", splits={"calibration": SplitArrays(x="x")})
    with pytest.raises(ModelpressError, match="no evaluation split"):
        compare_quality(path, path, open_dataset([tmp_path / "only.npz"], spec), threads=1)


def ending_in(operator, path):
    """The file with another operator behind it."""
    model = onnx.load(path)
    last = model.graph.output[0].name
    model.graph.node.append(helper.make_node(operator, [last], ["probabilities"]))
    model.graph.output[0].name = "probabilities"
    made = path.with_name(f"{operator}_{path.name}")
    onnx.save(model, made)
    return made


@pytest.mark.parametrize(
    ("task", "operator", "y"),
    [("multi_label", "Sigmoid", one_hot([0, 1, 2] * 40, 3).astype(int)), ("classification", "Softmax", None)],
)
def test_probabilities_are_judged_as_the_logits_beneath(dataset, linear_file, task, operator, y):
    files = linear_file("a.onnx", 4 * np.eye(3) - 2), linear_file("b.onnx", 4 * np.roll(np.eye(3), 1, 0) - 1)
    data = dataset(task, one_hot([0, 1, 2] * 40, 3), y)
    wanted = compare_quality(*files, data, threads=1)
    found = compare_quality(*(ending_in(operator, file) for file in files), data, threads=1)
    assert (found.original.value, found.result.value) == (wanted.original.value, wanted.result.value)
    assert wanted.original.value == 1.0
    assert wanted.result.value < 0.5
    assert (found.divergence or 0.0) == pytest.approx(wanted.divergence or 0.0, rel=1e-4)
