"""Where the sockets of the embedded servers are: beside the data, or in a short folder when that path is too long."""

import hashlib
import os
import re
import socket
import stat
import tempfile
from pathlib import Path

from launch.process import LaunchError

# Linux allows 107 bytes for the path of a socket, macOS 103.
_LONGEST = 103
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")


def socket_directory(directory: Path, name: str) -> Path:
    """A folder that only its owner may enter, in which a socket called `name` can be made."""
    wanted = directory.resolve() / "run"
    if len(os.fsencode(wanted)) + len(name) + 1 <= _LONGEST and _PLAIN.fullmatch(str(wanted)):
        wanted.mkdir(mode=0o700, exist_ok=True)
        return wanted
    # The same data folder always gets the same short folder, so that nothing piles up after a crash.
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"modelpress-{os.geteuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    _refuse_foreign(short)
    return short


def _refuse_foreign(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {os.geteuid(), _nobody_if_root()}:
        raise LaunchError(f"{folder} belongs to somebody else; remove it, or set TMPDIR to a folder of your own.")
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def _nobody_if_root() -> int:
    return 65534 if os.geteuid() == 0 else os.geteuid()


def free_port(preferred: int | None = None) -> int:
    """A free port of the loopback interface, the preferred one if it can be had."""
    for port in (preferred, 0) if preferred else (0,):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise LaunchError("No port of the loopback interface is free.")
