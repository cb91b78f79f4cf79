"""From how a runner ended to the failure that a user reads."""

from core.errors import CATALOGUE, ModelpressError
from core.messages import ErrorMessage
from core.resources.shape import Failure
from workers.ending import End


def failure_of_end(end: End, detail: str) -> Failure:
    """The failure of a runner that was stopped at a limit; the end is also the error's code."""
    return Failure(code=end, detail=detail, hint=CATALOGUE[end].hint, retryable=end is End.STALLED)


def failure_of_answer(said: ErrorMessage) -> Failure:
    """The failure that the runner itself reports; a code that is not in the catalogue is not passed on."""
    code = said.code if said.code in CATALOGUE else "internal"
    fields = said.model_dump(exclude={"kind", "code", "hint"})
    return Failure(code=code, hint=said.hint or CATALOGUE[code].hint, **fields)


def failure_of_error(error: ModelpressError) -> Failure:
    """The failure of a fault that was met beside the runner."""
    return Failure(
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        node=error.node,
        layer=error.layer,
        step=error.step,
        retryable=error.retryable,
    )
