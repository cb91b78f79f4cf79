"""How long a job will still take, from how long its parts have taken."""

import time
from typing import final

from core.messages import ProgressMessage

# Before so much of a step is done, its pace says nothing.
_SHARE, _SECONDS = 0.02, 1.0


@final
class Pace:
    """Adds to what is said of progress how far the step is, and what is left of step and job in seconds.

    What is left of a step follows its own pace since it first told how far it is, which need not be its beginning; what
    comes after it follows that of the steps which this run has ended.
    """

    def __init__(self) -> None:
        self._span = (0.0, 1.0)
        self._began = time.monotonic()
        self._first: tuple[float, float] | None = None
        self._seconds = self._width = 0.0

    def begin(self, span: tuple[float, float]) -> None:
        """A step begins that is this part of the job."""
        self._span, self._began, self._first = span, time.monotonic(), None

    def end(self) -> None:
        """The step has ended."""
        self._seconds += time.monotonic() - self._began
        self._width += self._span[1] - self._span[0]

    def tell(self, message: ProgressMessage) -> ProgressMessage:
        """The message with all that is known of the time."""
        begin, end = self._span
        share = min(max((message.fraction - begin) / (end - begin), 0.0), 1.0)
        now = time.monotonic()
        self._first = self._first or (now, share)
        elapsed, gained = now - self._first[0], share - self._first[1]
        step = elapsed * (1 - share) / gained if gained >= _SHARE and elapsed >= _SECONDS else None
        known = step is not None and (self._width > 0 or end == 1.0)
        after = (1 - end) * self._seconds / self._width if self._width else 0.0
        return message.model_copy(
            update={
                "step_fraction": share,
                "step_eta_seconds": step,
                "eta_seconds": step + after if known and step is not None else None,
            }
        )
