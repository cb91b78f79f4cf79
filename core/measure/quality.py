"""Quality of two files on the same samples, as onnxruntime answers them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from torch import Tensor

from core.data.dataset import Dataset
from core.description import Task
from core.errors import ModelpressError
from core.measure.intervals import (
    PairedTest,
    Vector,
    compare_means,
    compare_proportions,
    mean_interval,
    wilson_interval,
)
from core.measure.probabilities import gives_probabilities
from core.measure.runtime import Feed, count_samples, fixed_batch, open_session, repeat_samples, run_session
from core.measure.scores import OF_CLASSES, Answers, Metric, Scores, join, pool, score, spearman_terms
from core.verdict import Quality, QualityChange

BATCH = 64
# What is told instead of an infinite ratio when the outputs are equal bit for bit.
SQNR_OF_EQUAL_DB = 200.0
SMALLEST_POWER_RATIO = 1e-20

Array = NDArray[Any]

HIGHER_IS_BETTER: frozenset[Metric] = frozenset({"accuracy", "token_accuracy", "f1", "spearman", "agreement", "cosine"})
# Shares of samples, which are right or wrong as a whole.
PROPORTIONS: frozenset[Metric] = frozenset({"accuracy", "agreement"})
# Metrics that compare with the original have no paired test: the original is its own measure.
AGAINST_ORIGINAL: frozenset[Metric] = frozenset({"agreement", "cosine", "relative_error"})
LABELLED: Mapping[Task, Metric] = {
    "classification": "accuracy",
    "multi_label": "f1",
    "regression": "mse",
    "token_classification": "token_accuracy",
    "language_modelling": "bits_per_token",
    "embedding": "spearman",
}
UNLABELLED: Mapping[Task, Metric] = {"classification": "agreement", "embedding": "cosine"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Quality of original and result, their paired difference, and how alike the outputs are.

    `sqnr_db` is the power of the original's outputs over that of the difference; `divergence` is the mean
    Kullback-Leibler divergence of the result's class probabilities from the original's, in nats; `token_accuracy` is
    that of original and result on text. What does not suit the task is None.
    """

    original: Quality
    result: Quality
    change: QualityChange
    sqnr_db: float
    divergence: float | None
    token_accuracy: tuple[float, float] | None


def compare_quality(
    original: Path,
    result: Path,
    dataset: Dataset,
    *,
    threads: int,
    progress: Callable[[float], None] = lambda _: None,
    seed: int = 0,
) -> Comparison:
    """Run both files over the evaluation split in one pass; raises `missing_data` without one, `non_finite`.

    With labels the metric is accuracy (Wilson interval, McNemar's exact test), or with a paired bootstrap over samples
    the mean of each sample's F1, squared error, share of right tokens or bits per token, or Spearman's correlation of
    the similarity of pairs with their scores. Without, it is agreement of the most likely class, the cosine of both
    embeddings, or the mean of ‖result − original‖/‖original‖.
    """
    metric = choose_metric(dataset)
    before_session, after_session = open_session(original, threads), open_session(result, threads)
    batch_size = fixed_batch(before_session) or BATCH
    total, probabilities = max(dataset.count("evaluation"), 1), gives_probabilities(original, metric)
    parts: list[Scores] = []
    for index, batch in enumerate(dataset.batches("evaluation", batch_size)):
        feed = _feed(batch.inputs)
        before, after = (_answer(session, feed, batch_size) for session in (before_session, after_session))
        if not np.isfinite(after).all():
            raise ModelpressError("non_finite", f"The result answers NaN or infinity in evaluation batch {index}.")
        pair = None
        if metric == "spearman" and batch.pair is not None:
            other = _feed(batch.pair)
            sides = (_answer(session, other, batch_size) for session in (before_session, after_session))
            first, second = (pool(side, other) for side in sides)
            pair = (first, second)
        labels = None if batch.labels is None else batch.labels.numpy()
        parts.append(score(metric, Answers(before, after, labels, feed, pair, probabilities)))
        progress(min((index + 1) * batch_size / total, 1.0))
    return _conclude(metric, _finish(metric, join(parts)), seed)


def choose_metric(dataset: Dataset) -> Metric:
    """The metric that the task and the labels of the evaluation split allow."""
    if not dataset.labelled("evaluation"):
        return UNLABELLED.get(dataset.task, "relative_error")
    paired = bool(dataset.splits["evaluation"].samples.pair)
    if dataset.task == "embedding" and not paired:
        return "cosine"
    return LABELLED.get(dataset.task, "relative_error")


def _feed(inputs: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def _finish(metric: Metric, scores: Scores) -> Scores:
    """Rank correlation looks at all pairs at once."""
    if metric != "spearman":
        return scores
    return replace(
        scores,
        original=spearman_terms(scores.original, scores.given),
        result=spearman_terms(scores.result, scores.given),
    )


def _answer(session: ort.InferenceSession, feed: Feed, batch_size: int) -> Array:
    """The first output; a file bound to its batch size gets the last samples repeated, and the surplus is cut off."""
    n = count_samples(session, feed)
    if n < batch_size and fixed_batch(session) is not None:
        feed = repeat_samples(session, feed, batch_size)
    return run_session(session, feed)[0][:n]


def _conclude(metric: Metric, scores: Scores, seed: int) -> Comparison:
    has_classes = metric in OF_CLASSES
    test = _test(metric, scores, seed)
    change = QualityChange(
        delta=test.delta,
        low=test.low,
        high=test.high,
        p=test.p,
        test="none" if metric in AGAINST_ORIGINAL else "mcnemar" if metric == "accuracy" else "bootstrap",
        lost=int((scores.original > scores.result).sum()) if metric == "accuracy" else None,
        gained=int((scores.original < scores.result).sum()) if metric == "accuracy" else None,
        agreement=float(scores.same.mean()) if has_classes or metric == "f1" else None,
    )
    right = (float(scores.right[0].mean()), float(scores.right[1].mean()))
    return Comparison(
        original=_quality(metric, scores.original, seed),
        result=_quality(metric, scores.result, seed),
        change=change,
        sqnr_db=_decibels(scores.signal, scores.noise),
        divergence=float(scores.divergence.mean()) if has_classes else None,
        token_accuracy=right if metric == "bits_per_token" else None,
    )


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return SQNR_OF_EQUAL_DB
    return 10 * math.log10(max(signal / noise, SMALLEST_POWER_RATIO))


def _quality(metric: Metric, values: Vector, seed: int) -> Quality:
    interval = wilson_interval(int(values.sum()), len(values)) if metric in PROPORTIONS else mean_interval(values, seed)
    return Quality(
        metric=metric,
        value=float(values.mean()),
        higher_is_better=metric in HIGHER_IS_BETTER,
        low=interval.low,
        high=interval.high,
        n=len(values),
        split="evaluation",
    )


def _test(metric: Metric, scores: Scores, seed: int) -> PairedTest:
    if metric == "accuracy":
        return compare_proportions(scores.original > 0, scores.result > 0)
    if metric not in AGAINST_ORIGINAL:
        return compare_means(scores.original, scores.result, seed)
    found, start = _quality(metric, scores.result, seed), float(scores.original.mean())
    return PairedTest(found.value - start, found.low - start, found.high - start, 1.0)
