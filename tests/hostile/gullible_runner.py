"""A runner that does what no reader here does: it unpickles the upload, so that only the sandbox is in its way."""

import pickle
import sys
from pathlib import Path

from core.messages import REQUEST, ErrorMessage, InspectModel, LogMessage, Said

# What the unpickled code says that it reached.
REACHED: list[str] = []


def say(message: Said) -> None:
    sys.stdout.write(f"{message.model_dump_json()}\n")
    sys.stdout.flush()


def main() -> None:
    request = REQUEST.validate_json(Path(sys.argv[1], "request.json").read_bytes())
    assert isinstance(request, InspectModel)
    say(LogMessage(text="about to be fooled"))
    pickle.loads(Path(request.files[0].path).read_bytes())
    say(ErrorMessage(code="unsafe_file", detail=f"reached: {REACHED}"))


if __name__ == "__main__":
    main()
