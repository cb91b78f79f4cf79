"""The verdict of a job as a table."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from core.resources.job import Job
from core.verdict import Measured, Quality, QualityChange, Speedup, Verdict
from modelpress.cli.numbers import amount, milliseconds, size, times
from modelpress.cli.output import console

Row = tuple[str, str, str, str]
_FINDING_STYLE = {"problem": "bold red", "advice": "yellow", "info": "cyan"}


def show_verdict(job: Job, verdict: Verdict) -> None:
    """Print the sentence, the numbers before and after, and the findings."""
    console.print(Text(verdict.sentence, style="bold green" if verdict.satisfied else "bold yellow"))
    table = Table(title=f"{job.name} · {job.model_name}", title_justify="left", title_style="dim")
    for name in ("", "original", "result", "change"):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows(verdict):
        table.add_row(*row)
    console.print(table)
    if verdict.pruned_layers:
        console.print(_pruned(verdict))
        if any(layer.shape_before for layer in verdict.layers):
            console.print(Text("Which outputs of each layer stayed is in plan.json, as outputs.", style="dim"))
    for finding in verdict.findings:
        console.print(Text(f"{finding.severity:8}", _FINDING_STYLE[finding.severity]) + Text(finding.text))
    conditions = verdict.conditions
    console.print(
        Text(f"Measured with {conditions.runtime}, {conditions.threads} thread(s), on {conditions.cpu}.", style="dim")
    )


def _pruned(verdict: Verdict) -> Table:
    """The layers that were pruned: their shapes, and how the loss rises as each alone keeps less and less."""
    table = Table(title="pruned layers, loss by what is kept of one alone", title_justify="left", title_style="dim")
    table.add_column("layer", overflow="fold")
    table.add_column("shape")
    for share in verdict.kept_shares:
        table.add_column(f"{share:.0%}", justify="right")
    for layer in verdict.pruned_layers:
        increases = (layer.sensitivity.increase_at(share) for share in verdict.kept_shares)
        told = ("–" if increase is None else f"{increase:+.4f}" for increase in increases)
        table.add_row(layer.name, layer.shapes, *told)
    return table


def rows(verdict: Verdict) -> Iterator[Row]:
    """The lines of the table: what, original, result, change."""
    before, after, change = verdict.original, verdict.result, verdict.change
    yield "file, stripped", size(before.bytes_stripped), size(after.bytes_stripped), f"{times(change.size_ratio)} less"
    if after.bytes_xz is not None:
        known = before.bytes_xz
        shrunk = "" if known is None else _ratio(known, after.bytes_xz)
        yield "file, xz", "not tried" if known is None else size(known), size(after.bytes_xz), shrunk
    if before.quality and after.quality:
        name = before.quality.metric
        yield name, _quality(before.quality), _quality(after.quality), _quality_change(change.quality)
    yield from _latency(verdict)
    yield (
        "activations, planned",
        size(before.planned_activation_bytes),
        size(after.planned_activation_bytes),
        _ratio(before.planned_activation_bytes, after.planned_activation_bytes),
    )
    yield from _memory(before, after)
    yield "parameters", amount(before.parameters), amount(after.parameters), ""
    yield "multiply-adds", amount(before.macs), amount(after.macs), ""


def _latency(verdict: Verdict) -> Iterator[Row]:
    after = {each.batch: each for each in verdict.result.latency}
    speedups = {each.batch: each for each in verdict.change.speedup}
    for each in verdict.original.latency:
        if each.batch in after:
            old, new = milliseconds(each.median_ms), milliseconds(after[each.batch].median_ms)
            yield f"latency, batch {each.batch}", old, new, _speedup(speedups.get(each.batch))
            if each.runtime != after[each.batch].runtime:
                yield "  in", each.runtime, after[each.batch].runtime, ""


def _memory(before: Measured, after: Measured) -> Iterator[Row]:
    peaks = size(before.peak_rss_bytes), size(after.peak_rss_bytes)
    yield "memory, measured peak", *peaks, _ratio(before.peak_rss_bytes, after.peak_rss_bytes)
    yield "time to load", milliseconds(before.load_ms), milliseconds(after.load_ms), ""


def _ratio(before: float, after: float) -> str:
    return f"{times(before / after)} less" if after else ""


def _quality(quality: Quality) -> str:
    return f"{quality.value:.4f} [{quality.low:.4f}, {quality.high:.4f}]"


def _quality_change(change: QualityChange | None) -> str:
    return f"{change.delta:+.4f} [{change.low:+.4f}, {change.high:+.4f}]" if change else ""


def _speedup(speedup: Speedup | None) -> str:
    if speedup is None:
        return ""
    if not speedup.significant:
        return "no measurable change"
    return (
        f"{times(speedup.ratio)} faster [{speedup.low:.2f}, {speedup.high:.2f}]"
        if speedup.ratio >= 1
        else (f"{times(1 / speedup.ratio)} slower")
    )
