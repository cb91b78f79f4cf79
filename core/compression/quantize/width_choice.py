"""Which layer gets how many bits: the least predicted cost within a budget, unless equal bits for all are better."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from core.compression.candidates import Candidate, put_encodings
from core.compression.context import Context
from core.compression.quantize.allocation import Allocation, Options, allocate, trace_curve
from core.compression.quantize.decision import Contestant, CurvePoint, Decision, Told
from core.compression.quantize.rounding import round_weights
from core.compression.quantize.width_costs import Costs, measure_costs
from core.compression.quantize.widths import Widths
from core.compression.sensitivity import effort_for
from core.compression.yardstick import Yardstick, choosing_split, input_batches
from core.errors import ModelpressError
from core.network.describe import describe
from core.network.network import Network
from core.specs.mixed import FLOAT_BITS, MixedQuantization

# Samples on which choices of bits are compared.
_CONTEST_SAMPLES: Final = 2000
_POINTS: Final = 10
# Ends of the parts of the step.
_COSTS, _CONTEST, _END = (0.0, 0.4), 0.45, 0.6


def choose_widths(
    network: Network, candidates: Sequence[Candidate], spec: MixedQuantization, context: Context
) -> Decision:
    """Measure, allocate, and compare with equal bits; raises `missing_data`, `non_finite`."""
    widths = Widths(network, candidates, spec.grid, spec.bits, floats=spec.allow_float)
    costs = measure_costs(widths, spec, context, _COSTS)
    return _Choice(widths, costs, spec, context).decide()


@dataclass(frozen=True)
class _Named:
    """Bits by layer, and how they are called."""

    name: str
    bits: Mapping[str, int]


@final
class _Choice:
    def __init__(self, widths: Widths, costs: Costs, spec: MixedQuantization, context: Context) -> None:
        self._widths, self._costs, self._spec, self._context = widths, costs, spec, context
        self._samples = 0
        self._rows = tuple(tuple(costs[path][bits] for bits in widths.bits) for path in widths.paths)
        for path, row in zip(widths.paths, self._rows, strict=True):
            if not any(math.isfinite(cost) for cost in row):
                text = f"With {path} rounded to any of these bits the answers are no numbers; let it stay float."
                raise ModelpressError("non_finite", text, layer=path)

    def decide(self) -> Decision:
        """The best choice of bits within the budget, and the least there is where none is within."""
        context, widths = self._context, self._widths
        context.progress(_CONTEST, "Allocating bits")
        options, limit = self._options(), self._limit()
        found = allocate(options, limit)
        chosen = self._named("mixed", found or options.smallest())
        contest: tuple[Contestant, ...] = ()
        told = []
        if found is None:
            told.append(Told(code="budget_missed", text=self._missed(options.smallest().size, limit)))
        else:
            chosen, contest = self._compare(chosen, limit)
            told.append(self._tell(chosen, contest))
        by_bytes = Options(self._rows, tuple(tuple(each.bytes for each in widths.table[path]) for path in widths.paths))
        rest = widths.other_bytes()
        curve = (
            CurvePoint(bytes=round(each.size) + rest, predicted=each.cost) for each in trace_curve(by_bytes, _POINTS)
        )
        return Decision(
            bits=dict(chosen.bits),
            costs={path: {bits: _finite(cost) for bits, cost in row.items()} for path, row in self._costs.items()},
            curve=tuple(curve),
            contest=contest,
            chosen=chosen.name,
            told=tuple(told),
        )

    def _options(self) -> Options:
        """Costs, and sizes in the unit of the budget."""
        table = self._widths.table
        if self._spec.budget.bytes is not None:
            return Options(self._rows, tuple(tuple(each.bytes for each in table[path]) for path in table))
        counts = [candidate.weight.numel() for candidate in self._widths.candidates.values()]
        return Options(self._rows, tuple(tuple(count * bits for bits in self._widths.bits) for count in counts))

    def _limit(self) -> float:
        budget = self._spec.budget
        if budget.bytes is not None:
            return budget.bytes - self._widths.other_bytes()
        return (budget.average_bits or 0.0) * self._widths.weights

    def _named(self, name: str, allocation: Allocation) -> _Named:
        return _Named(
            name,
            {
                path: self._widths.bits[option]
                for path, option in zip(self._widths.paths, allocation.choices, strict=True)
            },
        )

    def _predicted(self, bits: Mapping[str, int]) -> float:
        return math.fsum(self._costs[path][each] for path, each in bits.items())

    def _bytes(self, bits: Mapping[str, int]) -> int:
        """Of all parameters."""
        table = self._widths.table
        own = sum(each.bytes for path, row in table.items() for each in row if each.bits == bits[path])
        return own + self._widths.other_bytes()

    def _compare(self, mixed: _Named, limit: float) -> tuple[_Named, tuple[Contestant, ...]]:
        """The allocation, or the best of equal bits within the budget where that is better on the choosing split."""
        options = self._options()
        equal, above = self._equals(options, limit)
        yardstick = self._yardstick()
        self._samples = yardstick.samples
        contest = []
        entries = [each for each in (mixed, equal, above) if each is not None]
        for number, entry in enumerate(entries):
            share = _CONTEST + (_END - _CONTEST) * number / len(entries)
            self._context.progress(share, f"Comparing {entry.name}")
            score = yardstick.score(self._build(entry.bits))
            contest.append(
                Contestant(
                    name=entry.name,
                    bytes=self._bytes(entry.bits),
                    predicted=_finite(self._predicted(entry.bits)),
                    moved=score.loss if math.isfinite(score.loss) else None,
                    sqnr_db=score.sqnr_db if math.isfinite(score.sqnr_db) else None,
                )
            )
        better = equal is not None and _worth(contest[1]) < _worth(contest[0])
        return (equal if equal is not None and better else mixed), tuple(contest)

    def _equals(self, options: Options, limit: float) -> tuple[_Named | None, _Named | None]:
        """The most equal bits within the budget, and the least beyond it."""
        below: _Named | None = None
        for option, bits in enumerate(self._widths.bits):
            each = options.total([option] * len(self._widths.paths))
            named = self._named("floats" if bits == FLOAT_BITS else f"{bits} bits for all", each)
            if each.size > limit:
                return below, named
            if math.isfinite(each.cost):
                below = named
        return below, None

    def _yardstick(self) -> Yardstick:
        dataset = self._context.needed_dataset()
        network = self._widths.network
        size = network.inputs[0].shape[0] if network.inputs[0].shape else 1
        # Two or three networks are compared, and the original is scored.
        samples = effort_for(
            4, describe(network).macs, size if isinstance(size, int) else 1, most=_CONTEST_SAMPLES
        ).samples
        return Yardstick(network, dataset, split=choosing_split(dataset), limit=samples, labelled=False)

    def _build(self, bits: Mapping[str, int]) -> Network:
        """The network with these bits, rounded as the recipe asks."""
        rounding, widths = self._spec.rounding, self._widths
        if rounding.method == "nearest":
            return widths.encode(bits)
        templates = {
            widths.candidates[path].name: widths.template(path, each)
            for path, each in bits.items()
            if each != FLOAT_BITS
        }
        dataset = self._context.needed_dataset()
        rounded = round_weights(
            widths.network,
            templates,
            rounding,
            lambda: input_batches(widths.network, dataset, "calibration", limit=rounding.samples),
            lambda share, message: self._context.progress(_CONTEST, message),  # noqa: ARG005  the contest tells it
        )
        return put_encodings(widths.network, rounded)

    def _tell(self, chosen: _Named, contest: Sequence[Contestant]) -> Told:
        """How many bits the layers got, and what became of what was predicted."""
        own = next(each for each in contest if each.name == chosen.name)
        rest = "".join(
            f"; {each.name} ({each.bytes:,} bytes) move them by {_number(each.moved)}"
            for each in contest
            if each is not own
        )
        split = choosing_split(self._context.needed_dataset())
        moved = f"The answers to {self._samples} {split} samples move by {_number(own.moved)}"
        if self._spec.sensitivity != "sqnr":
            moved += f", {_number(own.predicted)} was predicted"
        if chosen.name != "mixed":
            text = f"{chosen.name.capitalize()}, in {own.bytes:,} bytes: different bits were worse. {moved}{rest}."
            return Told(code="equal_bits_kept", text=text)
        text = f"{self._describe(chosen.bits)} in {own.bytes:,} bytes with biases and scales. {moved}{rest}."
        return Told(code="bits_by_layer", text=text)

    def _describe(self, bits: Mapping[str, int]) -> str:
        counts: dict[int, int] = {}
        for each in sorted(bits.values()):
            counts[each] = counts.get(each, 0) + 1
        said = [
            f"{count} {'layer' if count == 1 else 'layers'} {'in floats' if each == FLOAT_BITS else f'in {each} bits'}"
            for each, count in counts.items()
        ]
        weights = {path: candidate.weight.numel() for path, candidate in self._widths.candidates.items()}
        mean = sum(weights[path] * each for path, each in bits.items()) / max(sum(weights.values()), 1)
        return f"{', '.join(said)}: {mean:.2f} bits a weight,"

    def _missed(self, least: float, limit: float) -> str:
        if self._spec.budget.bytes is not None:
            rest = self._widths.other_bytes()
            return (
                f"With the fewest bits for every layer the weights take {least + rest:,.0f} bytes, of which {rest:,} "
                f"are biases and what stays float; the budget of {limit + rest:,.0f} bytes cannot be kept to."
            )
        return (
            f"With the fewest bits for every layer a weight has {least / max(self._widths.weights, 1):.2f} bits in the "
            f"mean; the budget of {self._spec.budget.average_bits:g} cannot be kept to."
        )


def _number(value: float | None) -> str:
    return "what is no number" if value is None else f"{value:.3g}"


def _worth(contestant: Contestant) -> float:
    return math.inf if contestant.moved is None else contestant.moved


def _finite(cost: float) -> float | None:
    return cost if math.isfinite(cost) else None
