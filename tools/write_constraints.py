"""Writes constraints.txt: the exact versions that are installed, without local labels such as `+cpu`."""

import re
import subprocess
import sys
from pathlib import Path

_HEADER = "# Exact versions that the checks ran with: `make constraints` writes this file from a working .venv.\n"


def main() -> None:
    """Write the file; packages of other origins than the index are left out."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pins = [re.sub(r"\+.*", "", line) for line in frozen.splitlines() if re.fullmatch(r"[\w.-]+==\S+", line)]
    Path("constraints.txt").write_text(_HEADER + "\n".join(pins) + "\n")


if __name__ == "__main__":
    main()
