"""Numbers and facts in plain words, as findings and the verdict's sentence say them."""

from collections.abc import Iterable

from core.verdict import Change, Quality, QualityChange

SIGNIFICANCE = 0.05
# A size that moved less than this is told as the same.
SAME_SIZE = 0.005
METRIC_NAMES = {
    "accuracy": "accuracy",
    "token_accuracy": "accuracy of tokens",
    "f1": "F1",
    "spearman": "rank correlation",
    "bits_per_token": "bits per token",
    "mse": "mean squared error",
    "agreement": "agreement with the original",
    "cosine": "cosine with the original",
    "relative_error": "relative error against the original",
}
KILO, MEGA, GIGA = 1e3, 1e6, 1e9


def say_bytes(count: float) -> str:
    """SI units when large, exact bytes below 10 kB."""
    for unit, name in ((GIGA, "GB"), (MEGA, "MB"), (KILO, "kB")):
        if count >= unit * (10 if unit == KILO else 1):
            return f"{count / unit:.1f} {name}"
    return f"{count:,.0f} B"


def say_ratio(ratio: float) -> str:
    """Two digits, such as `3.8×`; near 1 as many as show that it is not 1."""
    digits = 0 if ratio >= 10 else 1 if ratio >= 1.1 else 2
    return f"{ratio:.{digits}f}×"


def say_p(p: float) -> str:
    """A p-value; very small ones are not told apart."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def say_signed(value: float) -> str:
    """With its sign; a minus is U+2212."""
    return f"{value:+.4f}".replace("-", "−")


def say_list(items: Iterable[str]) -> str:
    """One after the other, with `and` before the last."""
    every = list(items)
    return " and ".join([", ".join(every[:-1]), every[-1]] if len(every) > 1 else every)


def is_significant(change: QualityChange) -> bool:
    """Whether the paired test rejects that nothing changed."""
    return change.test != "none" and change.p < SIGNIFICANCE


def drop(quality: Quality, value: float) -> float:
    """A change of the metric as a loss: positive when it is in the bad direction."""
    return -value if quality.higher_is_better else value


def write_sentence(result: Quality | None, change: Change) -> str:
    """At most three facts, best first, the quality last; what got worse has its "but"."""
    gains: list[tuple[float, str]] = []
    same: list[str] = []
    losses: list[str] = []
    if abs(change.size_ratio - 1) <= SAME_SIZE:
        same.append("same size")
    elif change.size_ratio > 1:
        gains.append((change.size_ratio, f"{say_ratio(change.size_ratio)} smaller"))
    else:
        losses.append(f"{say_ratio(1 / change.size_ratio)} larger")
    if change.speedup:
        first = change.speedup[0]
        if not first.significant:
            same.append(f"no measurable change in time at batch {first.batch}")
        elif first.ratio > 1:
            gains.append((first.ratio, f"{say_ratio(first.ratio)} faster at batch {first.batch}"))
        else:
            losses.append(f"{say_ratio(1 / first.ratio)} slower at batch {first.batch}")
    facts = [text for _, text in sorted(gains, reverse=True)] + same
    worse = list(losses)
    if result is not None and change.quality is not None:
        text, is_loss = _say_quality(result, change.quality)
        (worse if is_loss or losses else facts).append(text)
    if worse and facts:
        worse[0] = f"but {worse[0]}"
    sentence = ", ".join([*facts, *worse])
    return sentence[:1].upper() + sentence[1:]


def _say_quality(result: Quality, change: QualityChange) -> tuple[str, bool]:
    if result.metric == "agreement":
        return f"same answer as the original on {100 * result.value:.4g} % of samples", False
    if result.metric == "cosine":
        return f"outputs point where the original's do (cosine {result.value:.4f})", False
    if result.metric == "relative_error":
        return f"outputs {100 * result.value:.2g} % from the original's", False
    name = METRIC_NAMES[result.metric]
    if not is_significant(change):
        return f"no significant change in {name}", False
    moved = "rose" if change.delta > 0 else "fell"
    return f"{name} {moved} by {abs(change.delta):.4f}", drop(result, change.delta) > 0
