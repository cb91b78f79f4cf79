"""What is told of a training while it runs: points of its curves, and how far it is."""

import time
from typing import final

from core.compression.context import Context
from core.compression.train.validation import SPLIT, Judgement

# Seconds after which a sign of life is due.
SIGN_OF_LIFE = 5.0


@final
class Curve:
    """Metric rows `loss`, `lr` and `quality` over epochs."""

    def __init__(self, context: Context, *, per_epoch: int, every: int, end: int) -> None:
        """`every` so many updates, of `end` in all, a point is told."""
        self._context, self._per_epoch, self._every, self._end = context, per_epoch, every, end
        self._sum, self._count = 0.0, 0
        self._said = 0.0

    def add(self, loss: float, rate: float, done: int) -> None:
        """One update was done."""
        self._sum, self._count = self._sum + loss, self._count + 1
        mean, epoch = self._sum / self._count, done / self._per_epoch
        if done % self._every == 0 or done == self._end:
            self._context.metric("loss", mean, split="train", at=epoch)
            self._context.metric("lr", rate, at=epoch)
            self._sum, self._count = 0.0, 0
        elif time.monotonic() - self._said < SIGN_OF_LIFE:
            return
        self._said = time.monotonic()
        epochs = self._end / self._per_epoch
        self._context.progress(done / self._end, f"Epoch {epoch:.1f} of {epochs:.1f}, loss {mean:.4f}")

    def judge(self, found: Judgement, done: int) -> None:
        """The weights were judged."""
        epoch = done / self._per_epoch
        self._context.metric("loss", found.loss, split=SPLIT, at=epoch)
        if found.quality is not None:
            self._context.metric("quality", found.quality, split=SPLIT, at=epoch)
