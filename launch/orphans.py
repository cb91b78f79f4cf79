"""Children that outlived a killed supervisor where the kernel has no death signal (macOS): remembered and ended."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

import psutil


def remember(file: Path, pids: Iterable[int]) -> None:
    """Write down the living children, each with its time of birth, since process ids are used again."""
    born = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            born[str(pid)] = psutil.Process(pid).create_time()
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(born))
    fresh.replace(file)


def end(file: Path, seconds: float = 10) -> None:
    """End what an earlier supervisor left behind, politely and then surely."""
    left = [process for pid, birth in _read(file).items() if (process := _same(int(pid), birth))]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(left, timeout=seconds)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    file.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, float]:
    try:
        return dict(json.loads(file.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _same(pid: int, birth: float) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        return process if abs(process.create_time() - birth) < 1 else None
    return None
