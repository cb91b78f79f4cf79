"""Quality of two files on the same samples, as onnxruntime answers them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from scipy.special import log_softmax

from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.measure.intervals import (
    PairedTest,
    Vector,
    compare_means,
    compare_proportions,
    mean_interval,
    wilson_interval,
)
from core.measure.runtime import Feed, fixed_batch, open_session, run_session
from core.verdict import Quality, QualityChange

BATCH = 64
# What is told instead of an infinite ratio when the outputs are equal bit for bit.
SQNR_OF_EQUAL_DB = 200.0
SMALLEST_POWER_RATIO = 1e-20

Metric = Literal["accuracy", "bits_per_token", "mse", "agreement", "relative_error"]
Array = NDArray[Any]

HIGHER_IS_BETTER: frozenset[Metric] = frozenset({"accuracy", "agreement"})
# Metrics that compare with the original have no paired test: the original is its own measure.
AGAINST_ORIGINAL: frozenset[Metric] = frozenset({"agreement", "relative_error"})


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


@dataclass(frozen=True, slots=True)
class _Scores:
    """Of each sample: metric of both files, share of equal answers, divergence, tokens right; and sums of powers."""

    original: Vector
    result: Vector
    same: Vector
    divergence: Vector
    right: tuple[Vector, Vector]
    signal: float
    noise: float


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

    With labels the metric is accuracy (Wilson interval, McNemar's exact test), bits per token or mean squared error
    (paired bootstrap). Without, it is agreement of the most likely class, or the mean of
    ‖result − original‖/‖original‖.
    """
    metric = choose_metric(dataset)
    before_session, after_session = open_session(original, threads), open_session(result, threads)
    batch_size = fixed_batch(before_session) or BATCH
    total = max(dataset.count("evaluation"), 1)
    parts: list[_Scores] = []
    for index, batch in enumerate(dataset.batches("evaluation", batch_size)):
        feed = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
        before, after = _answer(before_session, feed, batch_size), _answer(after_session, feed, batch_size)
        if not np.isfinite(after).all():
            raise ModelpressError("non_finite", f"The result answers NaN or infinity in evaluation batch {index}.")
        parts.append(_score(metric, before, after, None if batch.labels is None else batch.labels.numpy()))
        progress(min((index + 1) * batch_size / total, 1.0))
    return _conclude(metric, _join(parts), seed)


def choose_metric(dataset: Dataset) -> Metric:
    """The metric that the task and the labels of the evaluation split allow."""
    labelled = dataset.labelled("evaluation")
    if dataset.task == "classification":
        return "accuracy" if labelled else "agreement"
    if dataset.task == "language_modelling" and labelled:
        return "bits_per_token"
    return "mse" if dataset.task == "regression" and labelled else "relative_error"


def _answer(session: ort.InferenceSession, feed: Feed, batch_size: int) -> Array:
    """The first output; a file bound to its batch size gets the last samples repeated, and the surplus is cut off."""
    n = len(next(iter(feed.values())))
    if n < batch_size and fixed_batch(session) is not None:
        feed = {name: np.resize(rows, (batch_size, *rows.shape[1:])) for name, rows in feed.items()}
    return run_session(session, feed)[0][:n]


def _score(metric: Metric, before: Array, after: Array, labels: Array | None) -> _Scores:
    n = len(before)
    flat_before, flat_after = _flat(before), _flat(after)
    signal, noise = (flat_before**2).sum(axis=1), ((flat_after - flat_before) ** 2).sum(axis=1)
    same = divergence = np.zeros(n)
    right = (np.zeros(n), np.zeros(n))
    if metric == "mse":
        values = [((flat - _flat(np.asarray(labels))) ** 2).mean(axis=1) for flat in (flat_before, flat_after)]
    elif metric == "relative_error":
        values = [np.zeros(n), _relative(noise, signal)]
    else:
        answers = [array.argmax(axis=-1) for array in (before, after)]
        logs = [log_softmax(array.astype(np.float64), axis=-1) for array in (before, after)]
        same = _flat(answers[0] == answers[1]).mean(axis=1)
        divergence = _flat((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=-1)).mean(axis=1)
        values = [np.ones(n), same]
        if labels is not None:
            right = (_flat(answers[0] == labels).mean(axis=1), _flat(answers[1] == labels).mean(axis=1))
            values = list(right) if metric == "accuracy" else [_bits(log, labels) for log in logs]
    return _Scores(values[0], values[1], same, divergence, right, float(signal.sum()), float(noise.sum()))


def _relative(noise: Vector, signal: Vector) -> Vector:
    """Norm of the difference over that of the original; 1 where the original answers nothing but zeros."""
    ratio = np.divide(noise, signal, out=(noise > 0).astype(np.float64), where=signal > 0)
    return np.sqrt(ratio)


def _bits(logs: Array, labels: Array) -> Vector:
    """Mean over a window of −log2 of the probability given to the right token; logs (n, tokens, classes)."""
    chosen = np.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]
    bits: Vector = -_flat(chosen).mean(axis=1) / math.log(2)
    return bits


def _flat(array: Array) -> Vector:
    return array.reshape(len(array), -1).astype(np.float64)


def _join(parts: list[_Scores]) -> _Scores:
    return _Scores(
        np.concatenate([part.original for part in parts]),
        np.concatenate([part.result for part in parts]),
        np.concatenate([part.same for part in parts]),
        np.concatenate([part.divergence for part in parts]),
        (np.concatenate([part.right[0] for part in parts]), np.concatenate([part.right[1] for part in parts])),
        sum(part.signal for part in parts),
        sum(part.noise for part in parts),
    )


def _conclude(metric: Metric, scores: _Scores, seed: int) -> Comparison:
    has_classes = metric not in ("mse", "relative_error")
    test = _test(metric, scores, seed)
    change = QualityChange(
        delta=test.delta,
        low=test.low,
        high=test.high,
        p=test.p,
        test="none" if metric in AGAINST_ORIGINAL else "mcnemar" if metric == "accuracy" else "bootstrap",
        lost=int((scores.original > scores.result).sum()) if metric == "accuracy" else None,
        gained=int((scores.original < scores.result).sum()) if metric == "accuracy" else None,
        agreement=float(scores.same.mean()) if has_classes else None,
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
    interval = (
        wilson_interval(int(values.sum()), len(values)) if metric in HIGHER_IS_BETTER else mean_interval(values, seed)
    )
    return Quality(
        metric=metric,
        value=float(values.mean()),
        higher_is_better=metric in HIGHER_IS_BETTER,
        low=interval.low,
        high=interval.high,
        n=len(values),
        split="evaluation",
    )


def _test(metric: Metric, scores: _Scores, seed: int) -> PairedTest:
    if metric == "accuracy":
        return compare_proportions(scores.original > 0, scores.result > 0)
    if metric not in AGAINST_ORIGINAL:
        return compare_means(scores.original, scores.result, seed)
    found, start = _quality(metric, scores.result, seed), float(scores.original.mean())
    return PairedTest(found.value - start, found.low - start, found.high - start, 1.0)
