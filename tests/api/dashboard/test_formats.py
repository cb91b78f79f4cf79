from datetime import UTC, datetime, timedelta

import pytest

from api.dashboard import formats


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (520, "520 B"), (999.6, "1.00 kB"), (1_733_587, "1.73 MB"), (452_110, "452 kB"), (7.2e13, "72.0 TB")],
)
def test_sizes_are_si_with_three_digits(count: float, words: str) -> None:
    assert formats.short_size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(7.92, "7.9 s"), (59.4, "59 s"), (107, "1 min 47 s"), (7500, "2 h 05 min"), (3599.9, "1 h 00 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert formats.duration(seconds) == words


def test_a_change_carries_its_sign_and_a_true_minus() -> None:
    assert formats.signed(-0.0002) == "−0.0002"
    assert formats.signed(0.0011) == "+0.0011"


@pytest.mark.parametrize(("value", "words"), [(3.83, "3.83"), (27.84, "27.8"), (0.97, "0.97"), (1234.0, "1,234")])
def test_ratios(value: float, words: str) -> None:
    assert formats.ratio(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.1573, "0.157"), (2.5931, "2.593"), (34.912, "34.91"), (1330.2, "1,330")]
)
def test_milliseconds(value: float, words: str) -> None:
    assert formats.milliseconds(value) == words


def test_times_are_relative_under_a_day() -> None:
    now = datetime.now(UTC)
    assert formats.relative_time(now) == "just now"
    assert formats.relative_time(now - timedelta(minutes=22, seconds=5)) == "22 min ago"
    assert formats.relative_time(datetime(2026, 1, 3, tzinfo=UTC)) == "3 Jan 2026"


def test_percent_and_clock() -> None:
    assert formats.percent(0.52) == "52 %"
    assert formats.percent(0.012) == "1.2 %"
    assert formats.clock(107.23) == "01:47.2"


def test_code_is_set_as_code_and_everything_is_escaped() -> None:
    assert formats.coded("Ask for `a: <b>` & `c`") == "Ask for <code>a: &lt;b&gt;</code> &amp; <code>c</code>"
