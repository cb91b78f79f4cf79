"""The way out: one message a line on what was standard output, at once."""

import os
import sys
from typing import final

from core.messages import Message


@final
class Channel:
    """Writes messages to a descriptor that nothing else in the process knows."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take_over_stdout(cls) -> "Channel":
        """Keep standard output for messages; whatever else is printed, by C libraries too, goes to standard error."""
        sys.stdout.flush()
        kept = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(kept)

    def send(self, message: Message) -> None:
        """Write one line, unbuffered."""
        line = (message.model_dump_json() + "\n").encode()
        while line:
            line = line[os.write(self._descriptor, line) :]
