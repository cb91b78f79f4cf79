"""Which layers run on integers and which stay floats, so that a run takes no longer than a budget of time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from core.compression.candidates import Candidate
from core.compression.context import Context
from core.compression.method import Report
from core.compression.quantize.allocation import Options, allocate
from core.compression.quantize.decision import Decision, Told
from core.compression.quantize.layer_times import LayerTimes, time_layers
from core.compression.quantize.linear import LinearQuantizer
from core.compression.yardstick import SQNR_OF_EQUAL_DB, input_batches
from core.network.network import Network
from core.specs.mixed import FLOAT_BITS, MixedQuantization
from core.specs.recipe import Constraints
from core.verdict import Sensitivity

# A quantized network and the report on it.
Made = tuple[Network, Report]

_PROBES = 8
_INTEGER_BITS = 8


def choose_floats(
    network: Network, candidates: Sequence[Candidate], spec: MixedQuantization, context: Context
) -> tuple[Decision, Made | None]:
    """All layers are put on integers, timed and judged one by one; those that cost most for their time stay floats.

    Where none does, what was made is the result. Raises `missing_data`.
    """
    paths = tuple(each.path for each in candidates)
    begin, end = context.span
    inner = replace(context, constraints=Constraints(), span=(begin, begin + 0.35 * (end - begin)))
    everything = spec.linear(dict.fromkeys(paths, _INTEGER_BITS), spec.keep_float)
    quantized, report = LinearQuantizer().apply(network, everything, inner)
    inputs = next(iter(input_batches(network, context.needed_dataset(), "calibration", limit=_PROBES, batch=_PROBES)))
    times = time_layers(network, quantized, paths, inputs, context)
    decision = share_out(times, report.sensitivities, spec)
    return decision, None if decision.floats else (quantized, report)


def share_out(times: LayerTimes, sensitivities: Mapping[str, Sensitivity], spec: MixedQuantization) -> Decision:
    """The layers on integers that together cost least and keep to the time, or the fastest where none do."""
    paths = tuple(times.floats)
    costs = tuple((_cost(sensitivities.get(path, Sensitivity()), spec), 0.0) for path in paths)
    options = Options(costs, tuple((times.integers[path], times.floats[path]) for path in paths))
    budget = spec.budget.latency_ms or times.float_total / (spec.budget.speedup or 1.0)
    found = allocate(options, budget - times.rest)
    chosen = found or options.smallest()
    widths = {path: (_INTEGER_BITS, FLOAT_BITS)[option] for path, option in zip(paths, chosen.choices, strict=True)}
    return Decision(
        bits=widths,
        costs={
            path: {_INTEGER_BITS: row[0] if math.isfinite(row[0]) else None}
            for path, row in zip(paths, costs, strict=True)
        },
        times={path: (times.floats[path], times.integers[path]) for path in paths},
        told=(_tell(widths, times, times.rest + chosen.size, budget, missed=found is None),),
    )


def _cost(found: Sensitivity, spec: MixedQuantization) -> float:
    """What a layer costs on integers alone; one that was not tried counts as one that costs nothing."""
    if found.sqnr_db is None:
        return 0.0
    if found.sqnr_db <= -SQNR_OF_EQUAL_DB:
        return math.inf
    if spec.sensitivity == "measured" and found.loss_increase is not None:
        return max(found.loss_increase, 0.0)
    return float(10 ** (-found.sqnr_db / 10))


def _tell(widths: dict[str, int], times: LayerTimes, predicted: float, budget: float, *, missed: bool) -> Told:
    floats = [path for path, bits in widths.items() if bits == FLOAT_BITS]
    here = (
        f"By the times of single layers here a run takes {predicted:.3f} ms with {len(widths) - len(floats)} of "
        f"{len(widths)} layers on integers, {times.float_total:.3f} ms with none"
    )
    if missed:
        return Told(code="budget_missed", text=f"{here}; the budget of {budget:.3f} ms cannot be kept to.")
    stay = f"; floats stay {', '.join(floats)}" if floats else ""
    return Told(code="bits_by_layer", text=f"{here}. The budget is {budget:.3f} ms{stay}.")
