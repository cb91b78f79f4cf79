"""The integers of all chosen weights on a grid that is tried, and what biases take back of what rounding moves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.compression.candidates import Candidate
from core.compression.context import Context
from core.compression.quantize.correction import correct_biases
from core.compression.quantize.rounding import Progress, round_weights
from core.compression.quantize.templates import FULL_BITS, make_template
from core.compression.yardstick import input_batches
from core.network.encodings import AffineInteger, Elementwise, Grid, Masked
from core.network.network import Network
from core.specs.linear import LinearQuantization

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class EncodedWeights:
    """Integers by path of the layer, and what is added to biases."""

    integers: dict[str, AffineInteger]
    corrections: dict[str, Tensor]


@final
class WeightRounder:
    """Rounds the chosen weights of a network as a spec asks; the same grid is not computed twice."""

    def __init__(
        self, network: Network, candidates: Sequence[Candidate], spec: LinearQuantization, context: Context
    ) -> None:
        self._network = network
        self._candidates = candidates
        self._spec = spec
        self._context = context
        self._known: dict[Grid, EncodedWeights] = {}

    def round(self, grid: Grid, multiplied: frozenset[str], span: tuple[float, float]) -> EncodedWeights:
        """All weights; those of 8 bits in layers that multiply integers are on `grid`. `span` is within the step."""
        if grid not in self._known:
            rounding, (begin, end) = self._spec.rounding, span
            # To the nearest the scales are all the work, otherwise next to nothing.
            middle = begin + (end - begin) * (0.5 if rounding.method == "nearest" else 0.1)
            templates = self._templates(grid, multiplied, self._tell((begin, middle)))
            found = round_weights(
                self._network, templates, rounding, lambda: self._samples(rounding.samples), self._tell((middle, end))
            )
            integers = {each.path: _integers(found[each.name]) for each in self._candidates}
            self._known[grid] = EncodedWeights(integers, self._correct(integers, self._tell((middle, end))))
        return self._known[grid]

    def _templates(self, grid: Grid, multiplied: frozenset[str], tell: Progress) -> dict[str, Elementwise]:
        made: dict[str, Elementwise] = {}
        for number, each in enumerate(self._candidates):
            tell(number / len(self._candidates), f"Scales of {each.path}")
            made[each.name] = self._template(each, grid, multiplied)
        return made

    def _template(self, candidate: Candidate, grid: Grid, multiplied: frozenset[str]) -> AffineInteger:
        asked = self._spec.weights_of(candidate.path)
        replaceable = asked.bits == FULL_BITS and asked.symmetric and asked.per != "group"
        own = grid if replaceable and candidate.path in multiplied else None
        return make_template(candidate.layer, candidate.weight, asked, grid=own)

    def _correct(self, integers: Mapping[str, AffineInteger], tell: Progress) -> dict[str, Tensor]:
        """What biases take back; nothing where there are no samples, or drawn ones that nothing else asks for.

        Other ways to round than to the nearest make up for the moved mean themselves.
        """
        dataset = self._context.dataset
        asked = self._spec.bias_correction and self._spec.rounding.method == "nearest"
        if not asked or dataset is None or not dataset.count("calibration"):
            return {}
        if dataset.synthetic and not self._spec.calibration_samples():
            return {}
        rounded = {each.path: self._decoded(each, integers[each.path]) for each in self._candidates}
        limit = min(self._spec.calibration.samples, dataset.count("calibration"))
        batches = tell_samples(self._samples(limit), limit, tell, "Correcting biases")
        return correct_biases(self._network.graph, rounded, batches)

    def _decoded(self, candidate: Candidate, encoding: AffineInteger) -> Tensor:
        before = self._network.encodings.get(candidate.name)
        value = encoding.decode()
        return torch.where(before.mask, value, 0.0) if isinstance(before, Masked) else value

    def _samples(self, limit: int) -> Iterator[Inputs]:
        dataset = self._context.needed_dataset()
        return input_batches(self._network, dataset, "calibration", limit=limit)

    def _tell(self, span: tuple[float, float]) -> Progress:
        begin, end = span
        return lambda share, message: self._context.progress(begin + (end - begin) * share, message)


def tell_samples(batches: Iterable[Inputs], limit: int, tell: Progress, doing: str) -> Iterator[Inputs]:
    """The same batches; before each it is told how many of `limit` samples are done, where a cancel is noticed."""
    done = 0
    for inputs in batches:
        tell(done / limit, f"{doing}: {done} of {limit} samples")
        yield inputs
        done += len(inputs[0])


def _integers(encoding: Elementwise) -> AffineInteger:
    if not isinstance(encoding, AffineInteger):
        raise TypeError(f"{encoding.name} is not on a grid of integers")
    return encoding
