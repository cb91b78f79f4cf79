"""Numbers, times and ids as the pages write them."""

import re
from datetime import UTC, datetime

from markupsafe import Markup, escape

MINUS = "−"
DASH = "–"

_UNITS = ("B", "kB", "MB", "GB", "TB")


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, without an exponent: 0.1573 → 0.157, 1733.6 → 1,734."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    decimals = max(0, digits - 1 - exponent)
    text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS)


def size(count: float) -> tuple[str, str]:
    """Bytes as a short number and its SI unit: 1733587 → ("1.73", "MB")."""
    step = 0
    while abs(count) >= 999.5 and step < len(_UNITS) - 1:
        count /= 1000
        step += 1
    return (f"{count:.0f}" if step == 0 else significant(count)), _UNITS[step]


def short_size(count: float) -> str:
    """Bytes as one short text: 1733587 → 1.73 MB."""
    return " ".join(size(count))


def grouped(count: float) -> str:
    """A whole number with thousands apart."""
    return f"{count:,.0f}".replace("-", MINUS)


def milliseconds(value: float) -> str:
    """Milliseconds with four significant digits at most and three decimals at most."""
    return significant(value, 4) if value >= 1 else f"{value:.3f}"


def ratio(value: float) -> str:
    """A ratio with two decimals under 10 and three digits over."""
    return f"{value:.2f}" if value < 10 else significant(value)


def fraction(value: float) -> str:
    """Quality as a fraction with four digits."""
    return f"{value:.4f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A change with four digits, which always carries its sign."""
    return f"{value:+.4f}".replace("-", MINUS)


def percent(value: float) -> str:
    """A share between 0 and 1 in percent."""
    points = value * 100
    return f"{points:.0f} %" if points >= 9.95 or points == 0 else f"{points:.1f} %"


def duration(seconds: float) -> str:
    """A span of time: 7.9 s, 1 min 47 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def exact_time(moment: datetime) -> str:
    """A moment to the minute: 24 Nov 2026, 03:12 UTC."""
    return f"{moment.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def relative_time(moment: datetime) -> str:
    """How long ago under a day, else the date."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 0:
        return "in " + duration(-seconds)
    if seconds < 5:
        return "just now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86_400:
        return f"{seconds // 3600:.0f} h ago"
    return f"{moment.astimezone(UTC):%-d %b %Y}"


def short_id(identifier: str) -> str:
    """The last six characters of an id, which differ from object to object."""
    return "…" + identifier[-6:]


def clock(seconds: float) -> str:
    """Time since a job began, as its log shows it: 01:47.2."""
    minutes, rest = divmod(max(0.0, seconds), 60)
    return f"{int(minutes):02d}:{rest:04.1f}"


def coded(text: str) -> Markup:
    """Text in which what stands between backticks is set as code; all of it is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped just here


FILTERS = {
    "clock": clock,
    "coded": coded,
    "duration": duration,
    "exact_time": exact_time,
    "fraction": fraction,
    "grouped": grouped,
    "milliseconds": milliseconds,
    "percent": percent,
    "ratio": ratio,
    "relative_time": relative_time,
    "short_id": short_id,
    "short_size": short_size,
    "signed": signed,
    "significant": significant,
}
