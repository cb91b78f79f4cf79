"""What is told of layers that were pruned: on the page of a job, in a terminal, in the README of the result."""

from typing import Any

import pytest

from api.dashboard.pruned import pruned_table
from core.verdict import CurvePoint, Verdict
from modelpress.cli.verdicts import show_verdict
from tests.api.dashboard.samples import job, verdict


def pruned(**curves: tuple[float | None, ...]) -> Verdict:
    """A verdict in which some layers have curves at 75, 50 and 25 %, and the first one lost half of its outputs."""
    given = verdict()
    layers = []
    for layer in given.layers:
        points = zip((0.75, 0.5, 0.25), curves.get(layer.name, ()), strict=False)
        curve = tuple(CurvePoint(kept=kept, loss_increase=value) for kept, value in points)
        changes: dict[str, Any] = {"sensitivity": layer.sensitivity.model_copy(update={"curve": curve})}
        if layer.name == "conv1":
            changes |= {"shape": "10×1×5×5", "shape_before": "20×1×5×5"}
        layers.append(layer.model_copy(update=changes))
    return given.model_copy(update={"layers": tuple(layers)})


def test_all_lines_have_one_scale_and_begin_with_all_that_there_is() -> None:
    table = pruned_table(pruned(conv1=(0.0, 0.5, 2.0), fc1=(-0.5, None, 0.0)))
    assert table is not None
    assert table.shares == ("75 %", "50 %", "25 %")
    first, second = table.rows
    assert (first.name, first.line) == ("conv1", "0.0,80.0 33.33,80.0 66.67,60.0 100.0,0.0")
    # What is no number is a gap in the numbers and a straight line in the picture.
    assert second.line == "0.0,80.0 33.33,100.0 100.0,80.0"
    assert second.increases == ("−0.5000", "–", "+0.0000")
    assert table.sentence == "At 25 %, conv1 costs most (+2.0000) and fc1 least (+0.0000)."


def test_without_curves_there_is_no_table() -> None:
    assert pruned_table(verdict()) is None


def test_a_terminal_shows_shapes_and_curves(capsys: pytest.CaptureFixture[str]) -> None:
    told = pruned(fc1=(0.1, 0.2, None))
    show_verdict(job(), told)
    shown = capsys.readouterr().out
    assert "20×1×5×5 → 10×1×5×5" in shown
    assert "+0.1000" in shown
    assert "conv2" not in shown
    show_verdict(job(), verdict())
    assert "pruned layers" not in capsys.readouterr().out
