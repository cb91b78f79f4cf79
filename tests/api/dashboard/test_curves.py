"""Curves of trainings as the page of a job draws them."""

import math
from datetime import UTC, datetime

from api.dashboard.curves import curves
from core.messages import MetricMessage
from core.resources.job import MetricPoint


def point(name: str, value: float, at: float | None, split: str | None = "train", position: int = 0) -> MetricPoint:
    message = MetricMessage(
        name=name, value=value, at=at, split=split, step="finetune", conditions={"position": position}
    )
    return MetricPoint(**message.model_dump(exclude={"kind"}), created_at=datetime(2026, 7, 2, tzinfo=UTC))


def test_each_step_and_metric_has_a_chart_with_a_line_for_each_split() -> None:
    points = [point("loss", 2.0, 0.5), point("loss", 1.0, 1.0), point("loss", 1.5, 1.0, "validation")]
    points += [point("quality", 0.8, 1.0, "validation"), point("loss", 3.0, 1.0, position=2)]
    first, quality, second = curves([*points, point("lr", 0.1, 1.0, None), point("loss", 9.0, None)])
    assert list(first.lines) == ["train", "validation"]
    assert first.lines["train"] == "50.0,0.0 100.0,100.0"
    assert first.lines["validation"] == "100.0,50.0"
    assert (first.low, first.high) == ("1.00", "2.00")
    assert quality.caption.startswith("finetune: quality")
    assert second.caption.startswith("finetune: loss, train 3")
    assert curves([]) == ()


def test_what_is_no_number_is_left_out() -> None:
    bad = [point("loss", value, at) for value, at in ((math.nan, 1.0), (math.inf, 2.0), (1.0, math.inf))]
    assert curves(bad) == ()
    (drawn,) = curves([*bad, point("loss", 2.0, 0.5), point("loss", 1.0, 1.0)])
    assert drawn.lines == {"train": "50.0,0.0 100.0,100.0"}
