"""From the bytes that a runner writes to messages; whatever it writes, memory stays bounded."""

import math
from typing import final

from pydantic import ValidationError
from pydantic_core import from_json

from core.messages import LINE_LIMIT, MESSAGE, Message

# All that one run may say, in bytes; a run that says more only means to fill the database.
RUN_LIMIT = 1 << 30


class Violation(Exception):  # noqa: N818 - it says what happened
    """A runner broke the protocol; the message says how."""


@final
class Lines:
    """Cuts a stream into lines of at most `LINE_LIMIT` bytes and checks each; raises `Violation`."""

    def __init__(self, run_limit: int = RUN_LIMIT) -> None:
        self._rest = bytearray()
        self._left = run_limit

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete."""
        self._left -= len(data)
        if self._left < 0:
            raise Violation("The runner said more than one run may say.")
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        if max(map(len, (rest, *lines))) > LINE_LIMIT:
            raise Violation(f"The runner wrote a line of more than {LINE_LIMIT} bytes.")
        return [_parse(bytes(line)) for line in lines if line]

    def close(self) -> None:
        """No more bytes will come; raises `Violation` when the last line has no end."""
        if self._rest:
            raise Violation("The runner stopped in the middle of a line.")


def _parse(line: bytes) -> Message:
    try:
        # PostgreSQL stores neither the character NUL nor a number that JSON does not have.
        value = from_json(line.replace(b"\\u0000", b"\\ufffd"), allow_inf_nan=False)
        if not _is_finite(value):
            raise Violation("The runner wrote a number that is too large.")
        return MESSAGE.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Violation(f"The runner wrote a message that is not one: {where} {first['msg']}.") from error
    except ValueError as error:
        raise Violation(f"The runner wrote a line that is not JSON: {error}.") from error


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list) or all(map(_is_finite, value))
