import pytest

from api.dashboard import charts, verdicts
from core.specs.recipe import Constraints, Target
from core.states import JobState
from core.verdict import Speedup
from tests.api.dashboard.samples import job, latency, verdict


def titles(tiles: tuple[verdicts.Tile, ...]) -> list[str]:
    return [tile.title for tile in tiles]


@pytest.mark.parametrize("state", list(JobState))
def test_there_are_always_four_tiles(state: JobState) -> None:
    assert len(verdicts.tiles(job(state))) == 4
    assert len(verdicts.tiles(job(state, target=Target(batch_sizes=(1,))))) == 4


def test_what_is_not_measured_is_a_dash_and_the_original_size_is_known() -> None:
    size, quality, *_ = verdicts.tiles(job(JobState.RUNNING), original_bytes=1_733_587)
    assert (size.before, size.before_unit, size.after) == ("1.73", "MB", "–")
    assert (quality.before, quality.after, quality.tone) == ("–", "–", "waiting")


def test_a_finished_job_says_what_moved() -> None:
    size, quality, first, second = verdicts.tiles(job())
    assert (size.judgement, size.tone) == ("3.83× smaller", "ok")
    assert (quality.title, quality.judgement, quality.tone) == ("Accuracy", "No significant change", "plain")
    assert (first.judgement, second.judgement) == ("1.51× faster", "1.26× faster")
    assert quality.print[1].endswith("Limit 0.9138")


@pytest.mark.parametrize(
    ("ratio", "significant", "word"),
    [(1.5, True, "1.50× faster"), (0.5, True, "2.00× slower"), (1.5, False, "No measurable change")],
)
def test_faster_only_with_significance(ratio: float, significant: bool, word: str) -> None:
    speedup = Speedup(batch=1, ratio=ratio, low=ratio, high=ratio, significant=significant)
    assert verdicts.speed_word(speedup) == word


def test_a_limit_that_is_missed_is_bad() -> None:
    limits = Constraints(max_bytes=400_000, max_latency_ms=0.1, max_drop=0.0001)
    size, quality, first, second = verdicts.tiles(job(constraints=limits))
    assert [tile.tone for tile in (size, quality, first, second)] == ["bad", "bad", "bad", "ok"]


def test_findings_begin_with_what_is_worst() -> None:
    assert [finding.severity for finding in verdicts.ordered_findings(verdict())] == ["advice", "info"]


def test_layers_name_the_most_sensitive_and_the_largest() -> None:
    assert verdicts.layers_sentence(verdict()) == (
        "conv2 is the most sensitive and takes 52 % of the time. fc1 holds 93 % of the bytes."
    )


def test_every_mark_of_a_histogram_lies_on_it() -> None:
    measured = verdict()
    first, second = charts.histograms(measured.original, measured.result)
    for chart in (first, second):
        for bar in chart.bars:
            assert 0 <= bar.x < bar.x + bar.width <= 100.01
            assert 0 < bar.height <= 100
        for mark in chart.ticks:
            assert 0 <= mark.at <= 100
        assert {bar.series for bar in chart.bars} == {"original", "result"}
    assert first.caption == "Batch 1: 6,369 → 9,615 samples a second"


def test_one_slow_call_does_not_squeeze_the_others() -> None:
    slow = latency(1, 0.1, 0.12)
    far = slow.model_copy(update={"histogram": (*slow.histogram, (9.0, 1))})
    measured = verdict()
    (chart,) = charts.histograms(
        measured.original.model_copy(update={"latency": (far,)}),
        measured.result.model_copy(update={"latency": (latency(1, 0.08, 0.09),)}),
    )
    assert max(bar.x for bar in chart.bars if bar.series == "original") > 80


def test_the_limit_lies_between_what_it_separates() -> None:
    drawn = charts.latency_interval(latency(1, 2.0, 2.2), latency(1, 1.0, 1.1), 1.5)
    assert drawn.limit is not None
    assert drawn.result.dot < drawn.limit < drawn.original.dot


def test_different_runtimes_of_original_and_result_are_told() -> None:
    measured = verdict()
    here, there = (
        tuple(each.model_copy(update={"runtime": runtime}) for each in measured.original.latency)
        for runtime in ("onnxruntime 1", "openvino 2")
    )
    for results, found in ((there, True), (here, False)):
        shown = verdict(
            original=measured.original.model_copy(update={"latency": here}),
            result=measured.result.model_copy(update={"latency": results}),
        )
        lines = verdicts.tiles(job(verdict=shown))[2].print
        assert ("Original in onnxruntime 1, result in openvino 2" in lines) is found
