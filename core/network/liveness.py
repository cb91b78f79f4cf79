"""Planned memory of a graph: the peak of what is alive while its steps run in order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes that live at once, and the first step at which they do; None: before any, the inputs alone."""

    nbytes: int
    step: int | None


def find_peak(
    steps: Sequence[tuple[Iterable[str], Iterable[str]]],
    sizes: Mapping[str, int],
    *,
    inputs: Iterable[str],
    outputs: Iterable[str],
) -> Peak:
    """Peak of the sum of bytes of live tensors over steps given as (names read, names made).

    A tensor lives from the step that makes it (an input: from the start) to the last that reads it (an output: to the
    end). Only names in `sizes` count, so that weights can be left out. Reuse of memory in place is not counted.
    """
    last: dict[str, int] = {}
    for index, (read, _) in enumerate(steps):
        last.update(dict.fromkeys(read, index))
    last.update(dict.fromkeys(outputs, len(steps)))
    live = {name: sizes[name] for name in inputs if name in sizes}
    peak = Peak(sum(live.values()), None)
    for index, (_, made) in enumerate(steps):
        live.update({name: sizes[name] for name in made if name in sizes})
        if (now := sum(live.values())) > peak.nbytes:
            peak = Peak(now, index)
        live = {name: size for name, size in live.items() if last.get(name, -1) > index}
    return peak
