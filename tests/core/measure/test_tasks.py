"""The metric of every task, against what is known of files that were written by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from scipy.stats import spearmanr

from core.data.dataset import open_dataset
from core.description import DatasetSpec, SplitArrays, TensorDescription
from core.measure.quality import compare_quality
from core.measure.scores import pool, spearman_terms


@pytest.fixture
def dataset(tmp_path):
    def make(task, arrays, inputs=None, **names):
        np.savez(tmp_path / "data.npz", **arrays)
        spec = DatasetSpec(task=task, splits={"evaluation": SplitArrays(**names)})
        return open_dataset([tmp_path / "data.npz"], spec, inputs)

    return make


def test_several_classes_are_judged_by_f1_of_each_sample(dataset, linear_file):
    wanted = np.tile([[1, 0, 1], [0, 0, 0], [0, 1, 0]], (40, 1))
    x = 2.0 * wanted - 1
    data = dataset("multi_label", {"x": x.astype(np.float32), "y": wanted}, x="x", y="y")
    # The result never finds the last class, which every third sample has beside another.
    found = compare_quality(
        linear_file("a.onnx", np.eye(3)), linear_file("b.onnx", np.diag([1.0, 1.0, 0.0])), data, threads=1
    )
    assert (found.result.metric, found.original.value) == ("f1", 1.0)
    assert found.result.value == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert (found.change.test, found.change.p < 0.01) == ("bootstrap", True)


def test_tokens_that_are_not_judged_do_not_count(dataset, onnx_file):
    def file(name, table):
        return onnx_file(
            name,
            [helper.make_node("Gather", ["table", "ids"], ["logits"])],
            {"ids": (TensorProto.INT64, ["batch", 4])},
            {"logits": (TensorProto.FLOAT, ["batch", 4, 3])},
            {"table": np.asarray(table, np.float32)},
        )

    ids = np.tile([[0, 1, 2, 0], [1, 1, 0, 0]], (50, 1))
    labels = np.tile([[0, 1, 2, -100], [1, -100, -100, -100]], (50, 1))
    inputs = (TensorDescription(name="ids", dtype="int64", shape=("batch", 4)),)
    data = dataset("token_classification", {"x": ids, "y": labels}, inputs, x="x", y="y")
    found = compare_quality(file("a.onnx", np.eye(3)), file("b.onnx", np.eye(3)[[0, 1, 1]]), data, threads=1)
    assert (found.result.metric, found.original.value) == ("token_accuracy", 1.0)
    assert found.result.value == pytest.approx((2 / 3 + 1) / 2)
    assert found.result.higher_is_better


def test_pairs_are_judged_by_the_rank_of_their_similarity(dataset, linear_file):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 300, 4)).astype(np.float32)
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    arrays = {"one": one, "other": other, "score": cosines + 0.1 * rng.normal(size=300)}
    data = dataset("embedding", arrays, x="one", pair="other", y="score")
    broken = np.diag([1.0, 1.0, 1.0, 0.0])
    found = compare_quality(linear_file("a.onnx", np.eye(4)), linear_file("b.onnx", broken), data, threads=1)
    assert found.result.metric == "spearman"
    assert found.original.value == pytest.approx(spearmanr(cosines, arrays["score"]).statistic)
    assert found.original.low < found.original.value < found.original.high
    assert found.change.delta < 0
    assert found.change.p < 0.05


def test_unscored_embeddings_are_compared_with_the_original(dataset, linear_file):
    x = np.ones((120, 2), np.float32)
    data = dataset("embedding", {"x": x}, x="x")
    found = compare_quality(
        linear_file("a.onnx", np.eye(2)), linear_file("b.onnx", np.array([[1, 0], [0, 0]])), data, threads=1
    )
    assert (found.result.metric, found.original.value, found.change.test) == ("cosine", 1.0, "none")
    assert found.result.value == pytest.approx(np.sqrt(0.5))


def test_the_terms_of_the_rank_correlation_have_its_mean_and_spread():
    rng = np.random.default_rng(1)
    a = rng.normal(size=400)
    b = a + rng.normal(size=400)
    terms = spearman_terms(a, b)
    assert terms.mean() == pytest.approx(spearmanr(a, b).statistic)
    resampled = []
    for _ in range(400):
        rows = rng.integers(0, 400, 400)
        resampled.append(spearmanr(a[rows], b[rows]).statistic)
    assert terms.std() / 20 == pytest.approx(np.std(resampled), rel=0.15)
    assert (spearman_terms(np.zeros(5), np.arange(5.0)) == 0).all()


def test_tokens_are_pooled_by_the_mask():
    output = np.arange(12.0).reshape(1, 3, 4)
    np.testing.assert_allclose(pool(output, {"attention_mask": np.array([[1, 1, 0]])}), output[:, :2].mean(axis=1))
    np.testing.assert_allclose(pool(output, {"ids": np.zeros((1, 3))}), output.mean(axis=1))
