"""Quality of two files on the same samples, as the target runtime answers them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.data.dataset import Dataset
from core.description import Task
from core.errors import ModelpressError
from core.measure.engine import ONNXRUNTIME, RuntimeName, open_engine
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
# On so many batches the answers of another runtime are compared with onnxruntime's.
COMPARED_BATCHES = 8
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
    that of original and result on text. What does not suit the task is None. `runtime_difference` is how far the
    result's answers are from onnxruntime's, relative to their size, where another runtime is the target.
    """

    original: Quality
    result: Quality
    change: QualityChange
    sqnr_db: float
    divergence: float | None
    token_accuracy: tuple[float, float] | None
    runtime_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Sides:
    """Two files, and the runtime that both are to answer in."""

    original: Path
    result: Path
    threads: int
    runtime: RuntimeName = ONNXRUNTIME
    seed: int = 0


def compare_quality(
    original: Path,
    result: Path,
    dataset: Dataset,
    *,
    threads: int,
    progress: Callable[[float], None] = lambda _: None,
    seed: int = 0,
) -> Comparison:
    """Compare what both files answer in onnxruntime."""
    return compare_answers(Sides(original, result, threads, seed=seed), dataset, progress)


def compare_answers(sides: Sides, dataset: Dataset, progress: Callable[[float], None] = lambda _: None) -> Comparison:
    """Run both files over the evaluation split in one pass; raises `missing_data` without one, `non_finite`.

    With labels the metric is accuracy (Wilson interval, McNemar's exact test), or with a paired bootstrap over samples
    the mean of each sample's F1, squared error, share of right tokens or bits per token, or Spearman's correlation of
    the similarity of pairs with their scores. Without, it is agreement of the most likely class, the cosine of both
    embeddings, or the mean of ‖result − original‖/‖original‖.
    """
    metric = choose_metric(dataset)
    original, result = (_Answering(path, sides) for path in (sides.original, sides.result))
    size = original.batch
    total, probabilities = max(dataset.count("evaluation"), 1), gives_probabilities(sides.original, metric)
    parts: list[Scores] = []
    for index, batch in enumerate(dataset.batches("evaluation", size)):
        feed = _feed(batch.inputs)
        before, after = original.answer(feed, size), result.answer(feed, size)
        if not np.isfinite(after).all():
            raise ModelpressError("non_finite", f"The result answers NaN or infinity in evaluation batch {index}.")
        pair = None
        if metric == "spearman" and batch.pair is not None:
            other = _feed(batch.pair)
            pair = pool(original.answer(other, size), other), pool(result.answer(other, size), other)
        labels = None if batch.labels is None else batch.labels.numpy()
        parts.append(score(metric, Answers(before, after, labels, feed, pair, probabilities)))
        if index < COMPARED_BATCHES:
            result.compare(feed, after, size)
        progress(min((index + 1) * size / total, 1.0))
    compared = _conclude(metric, _finish(metric, join(parts)), sides.seed)
    return replace(compared, runtime_difference=result.difference)


@final
class _Answering:
    """One file in the runtime that is the target, and in onnxruntime, which knows its inputs."""

    def __init__(self, path: Path, sides: Sides) -> None:
        self._session = open_session(path, sides.threads)
        self._engine = None if sides.runtime == ONNXRUNTIME else open_engine(sides.runtime, path, sides.threads)
        self._power = self._apart = 0.0

    @property
    def batch(self) -> int:
        """The samples of a call."""
        return fixed_batch(self._session) or BATCH

    @property
    def difference(self) -> float | None:
        """How far the runtimes' answers are apart, as a share of their size (root mean square); None for one."""
        return None if self._engine is None or not self._power else math.sqrt(self._apart / self._power)

    def answer(self, feed: Feed, size: int) -> Array:
        """The first output; a file bound to its batch size gets the last samples repeated, the surplus is cut off."""
        count = count_samples(self._session, feed)
        full = self._filled(feed, count, size)
        first = run_session(self._session, full)[0] if self._engine is None else self._engine.run(full)[0]
        return first[:count]

    def compare(self, feed: Feed, answer: Array, size: int) -> None:
        """Note how far `answer` is from what onnxruntime says."""
        if self._engine is None:
            return
        count = count_samples(self._session, feed)
        wanted = run_session(self._session, self._filled(feed, count, size))[0][:count].astype(np.float64)
        self._power += float(np.square(wanted).sum())
        self._apart += float(np.square(answer - wanted).sum())

    def _filled(self, feed: Feed, count: int, size: int) -> Feed:
        bound = count < size and fixed_batch(self._session) is not None
        return repeat_samples(self._session, feed, size) if bound else feed


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
