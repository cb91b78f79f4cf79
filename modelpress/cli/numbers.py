"""Numbers as people read them."""

_STEP = 1000


def size(count: float) -> str:
    """Bytes with a decimal unit: `1.73 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < _STEP or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{_three(count)} {unit}"
        count /= _STEP
    raise AssertionError


def amount(count: float) -> str:
    """A count with a decimal prefix: `431 k`."""
    for prefix in ("", " k", " M", " G", " T"):
        if count < _STEP or prefix == " T":
            return f"{count:.0f}" if not prefix else f"{_three(count)}{prefix}"
        count /= _STEP
    raise AssertionError


def milliseconds(time: float) -> str:
    """A time in milliseconds with three digits."""
    return f"{_three(time)} ms"


def duration(seconds: float) -> str:
    """A time as people say it: `45 s`, `3 min`, `1.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def times(ratio: float) -> str:
    """A ratio: `3.82×`."""
    return f"{ratio:.2f}×"


def _three(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
