"""`quantize.mixed`: to each layer the bits that it needs, within a budget; then `quantize.linear` with them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast, final

from pydantic import JsonValue

from core.compression.candidates import find_candidates
from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.quantize.decision import Decision, read_decision
from core.compression.quantize.linear import LinearQuantizer
from core.compression.quantize.time_choice import choose_floats
from core.compression.quantize.width_choice import choose_widths
from core.network.network import Network
from core.specs.mixed import MixedQuantization
from core.specs.recipe import Constraints

# Where choosing ends and rounding begins, as a share of the step.
_CHOSEN = 0.6


@final
class MixedQuantizer(Method[MixedQuantization]):
    """HAWQ-V3 (Yao et al. 2021, arXiv 2011.10680), with other ways to tell what a layer costs."""

    def apply(self, network: Network, spec: MixedQuantization, context: Context) -> tuple[Network, Report]:
        """Choose bits and round; a budget below what can be reached gets the least, and a finding.

        Raises `missing_data`, `unsupported_layer`, `non_finite`, and `invalid_request` for a plan of another model.
        """
        candidates, left_out = find_candidates(network, spec.keep_float, takes=spec.takes)
        done = None
        decision = read_decision(context, tuple(each.path for each in candidates))
        if decision is None and spec.budget.of_time:
            decision, done = choose_floats(network, candidates, spec, context)
        elif decision is None:
            decision = choose_widths(network, candidates, spec, context)
        for point in decision.curve:
            context.metric("predicted_cost", point.predicted, split="calibration", at=float(point.bytes))
        for finding in decision.findings():
            context.log(finding.text)
        if not decision.rounded:
            context.progress(1.0, "All layers stay as they are")
            return network, Report((), findings=decision.findings(), plan=_plan(decision, {}))
        kept = tuple(sorted({*spec.keep_float, *decision.floats, *left_out}))
        made, report = done or LinearQuantizer().apply(network, spec.linear(decision.rounded, kept), _rounding(context))
        findings = (*decision.findings(), *report.findings)
        return made, replace(report, findings=findings, plan=_plan(decision, report.plan))


def _plan(decision: Decision, rounding: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    written: dict[str, JsonValue] = {"decision": decision.model_dump(mode="json"), "rounding": dict(rounding)}
    return written


def _rounding(context: Context) -> Context:
    """The rest of the step: what was chosen is rounded as it is, whatever it costs."""
    begin, end = context.span
    recorded = None
    if context.recorded is not None:
        recorded = cast("Mapping[str, JsonValue]", context.recorded.get("rounding") or {})
    span = (begin + (end - begin) * _CHOSEN, end)
    return replace(context, constraints=Constraints(), span=span, recorded=recorded)
