"""The program that loads torch: `python -I -m runner WORKDIR` reads `request.json`, writes JSON lines and files."""

import faulthandler
import sys
from pathlib import Path

from runner.channel import Channel
from runner.dispatch import answer

ARGUMENTS = 2


def main() -> int:
    """Answer the request of a folder; 0 also when the answer is an error, 2 when there is no request to answer."""
    if len(sys.argv) != ARGUMENTS:
        sys.stderr.write("usage: python -I -m runner WORKDIR\n")
        return 2
    faulthandler.enable()
    work = Path(sys.argv[1]).resolve()
    channel = Channel.take_over_stdout()
    answer(work, channel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
