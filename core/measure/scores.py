"""What one batch of answers is worth, sample by sample, for every task."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from core.data.tokens import IGNORED
from core.measure.intervals import Vector
from core.measure.runtime import Feed

Metric = Literal[
    "accuracy",
    "token_accuracy",
    "f1",
    "bits_per_token",
    "mse",
    "spearman",
    "agreement",
    "cosine",
    "relative_error",
]
Array = NDArray[Any]

# Metrics whose answers are the most likely of several classes.
OF_CLASSES: frozenset[Metric] = frozenset({"accuracy", "token_accuracy", "bits_per_token", "agreement"})
SMALLEST_NORM = 1e-30


@dataclass(frozen=True, slots=True)
class Scores:
    """Of each sample: metric of both files, share of equal answers, divergence, tokens right, and the given score of a
    pair; and sums of powers over all.
    """

    original: Vector
    result: Vector
    same: Vector
    divergence: Vector
    right: tuple[Vector, Vector]
    given: Vector
    signal: float
    noise: float


@dataclass(frozen=True, slots=True)
class Answers:
    """The first output of both files for one batch, embeddings of the other side of each pair, and labels.

    `probabilities` says that the outputs are those of a softmax or a sigmoid, and not logits.
    """

    before: Array
    after: Array
    labels: Array | None
    feed: Feed
    pair: tuple[Array, Array] | None = None
    probabilities: bool = False


def score(metric: Metric, answers: Answers) -> Scores:
    """The scores of a batch."""
    before, after, labels = answers.before, answers.after, answers.labels
    n = len(before)
    flat_before, flat_after = flat(before), flat(after)
    signal, noise = (flat_before**2).sum(axis=1), ((flat_after - flat_before) ** 2).sum(axis=1)
    same = divergence = given = np.zeros(n)
    right = (np.zeros(n), np.zeros(n))
    if metric in OF_CLASSES:
        values, same, divergence, right = _score_classes(metric, answers)
    elif metric == "mse":
        values = [((side - flat(np.asarray(labels))) ** 2).mean(axis=1) for side in (flat_before, flat_after)]
    elif metric == "f1":
        likely = 0.5 if answers.probabilities else 0.0
        values = [_f1(side > likely, np.asarray(labels) > 0) for side in (before, after)]
        same = flat((before > likely) == (after > likely)).mean(axis=1)
    elif metric == "spearman" and answers.pair is not None:
        sides = zip((before, after), answers.pair, strict=True)
        values = [cosine(pool(one, answers.feed), other) for one, other in sides]
        given = np.asarray(labels, np.float64).reshape(n)
    elif metric == "cosine":
        values = [np.ones(n), cosine(pool(before, answers.feed), pool(after, answers.feed))]
    else:
        values = [np.zeros(n), _relative(noise, signal)]
    return Scores(values[0], values[1], same, divergence, right, given, float(signal.sum()), float(noise.sum()))


def join(parts: list[Scores]) -> Scores:
    """The scores of all batches."""
    return Scores(
        np.concatenate([part.original for part in parts]),
        np.concatenate([part.result for part in parts]),
        np.concatenate([part.same for part in parts]),
        np.concatenate([part.divergence for part in parts]),
        (np.concatenate([part.right[0] for part in parts]), np.concatenate([part.right[1] for part in parts])),
        np.concatenate([part.given for part in parts]),
        sum(part.signal for part in parts),
        sum(part.noise for part in parts),
    )


def spearman_terms(similarity: Vector, given: Vector) -> Vector:
    """One term a pair, whose mean is Spearman's rank correlation and whose spread is that of its estimate.

    With standardised ranks a, b and r = mean(a·b) the terms are r plus the influence of a pair, a·b − r·(a² + b²)/2
    (Devlin, Gnanadesikan and Kettenring 1975), so that intervals of a mean are intervals of r.
    """
    from scipy.stats import rankdata  # noqa: PLC0415  (takes most of a second)

    a, b = _standardise(rankdata(similarity)), _standardise(rankdata(given))
    r = float((a * b).mean())
    terms: Vector = r + a * b - r * (a**2 + b**2) / 2
    return terms


def pool(output: Array, feed: Feed) -> Array:
    """One vector a sample: (n, d) as it is, (n, tokens, d) averaged over the tokens that the attention mask keeps."""
    if output.ndim != 3:
        return flat(output)
    mask = next((value for name, value in feed.items() if "mask" in name and value.shape == output.shape[:2]), None)
    weights = np.ones(output.shape[:2]) if mask is None else mask.astype(np.float64)
    pooled: Array = (output * weights[..., None]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)[:, None]
    return pooled


def cosine(one: Array, other: Array) -> Vector:
    """Cosine of the angle between the rows of (n, d) and (n, d)."""
    a, b = flat(one), flat(other)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    values: Vector = (a * b).sum(axis=1) / np.maximum(norms, SMALLEST_NORM)
    return values


def flat(array: Array) -> Vector:
    """One row a sample, in double precision."""
    return array.reshape(len(array), -1).astype(np.float64)


def _score_classes(metric: Metric, answers: Answers) -> tuple[list[Vector], Vector, Vector, tuple[Vector, Vector]]:
    """Metric of both files, share of equal answers, divergence, tokens right of both; outputs are (n, …, classes)."""
    before, after, labels = answers.before, answers.after, answers.labels
    n = len(before)
    most_likely = [array.argmax(axis=-1) for array in (before, after)]
    logs = [_logs(array.astype(np.float64), probabilities=answers.probabilities) for array in (before, after)]
    same = flat(most_likely[0] == most_likely[1]).mean(axis=1)
    divergence = flat((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=-1)).mean(axis=1)
    if labels is None:
        return [np.ones(n), same], same, divergence, (np.zeros(n), np.zeros(n))
    counted = flat(labels != IGNORED)
    share = np.maximum(counted.sum(axis=1), 1)
    first, second = ((flat(answer == labels) * counted).sum(axis=1) / share for answer in most_likely)
    if metric == "token_accuracy":
        # A sample without a judged token is right in both files.
        empty = counted.sum(axis=1) == 0
        first, second = np.where(empty, 1.0, first), np.where(empty, 1.0, second)
    values = [_bits(log, labels) for log in logs] if metric == "bits_per_token" else [first, second]
    return values, same, divergence, (first, second)


def _logs(array: Vector, *, probabilities: bool) -> Vector:
    """Logarithms of the probabilities of classes."""
    # A log is as good as a logit; rounded probabilities need not sum to 1.
    logits = np.log(np.maximum(array, np.finfo(np.float32).tiny)) if probabilities else array
    logs: Vector = log_softmax(logits, axis=-1)
    return logs


def _f1(chosen: Array, wanted: Array) -> Vector:
    """Of each sample 2·|chosen ∩ wanted| / (|chosen| + |wanted|), 1 where both are empty."""
    both, total = flat(chosen & wanted).sum(axis=1), flat(chosen).sum(axis=1) + flat(wanted).sum(axis=1)
    found: Vector = np.divide(2 * both, total, out=np.ones(len(chosen)), where=total > 0)
    return found


def _relative(noise: Vector, signal: Vector) -> Vector:
    """Norm of the difference over that of the original; 1 where the original answers nothing but zeros."""
    ratio = np.divide(noise, signal, out=(noise > 0).astype(np.float64), where=signal > 0)
    return np.sqrt(ratio)


def _bits(logs: Array, labels: Array) -> Vector:
    """Mean over a window of −log2 of the probability given to the right token; logs (n, tokens, classes)."""
    chosen = np.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]
    bits: Vector = -flat(chosen).mean(axis=1) / math.log(2)
    return bits


def _standardise(ranks: Vector) -> Vector:
    spread = float(ranks.std())
    standardised: Vector = (ranks - ranks.mean()) / (spread or 1.0)
    return standardised
