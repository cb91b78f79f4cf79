"""How the run of a runner can end."""

from dataclasses import dataclass
from enum import StrEnum

from core.messages import DatasetInspected, ErrorMessage, JobDone, ModelInspected

Answer = JobDone | ModelInspected | DatasetInspected | ErrorMessage
ANSWERS = (JobDone, ModelInspected, DatasetInspected, ErrorMessage)


class End(StrEnum):
    """Why a runner is no longer running."""

    ANSWERED = "answered"
    SILENT = "silent"  # gone without an answer
    CANCELLED = "cancelled"
    LOST = "lost"  # the lease is, or may be, another worker's
    DRAINED = "drained"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    STALLED = "stalled"
    NO_SPACE = "no_space"
    VIOLATED = "protocol_violation"


# Ends that are the job's own doing: it fails at once, since a second run would end in the same way.
LIMITS = frozenset({End.TIMED_OUT, End.OUT_OF_MEMORY, End.STALLED, End.NO_SPACE, End.VIOLATED})


@dataclass(frozen=True)
class Outcome:
    """An end with its sentence, the answer if there is one, and the last bytes of standard error."""

    end: End
    detail: str
    answer: Answer | None = None
    errors: str = ""
