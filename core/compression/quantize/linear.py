"""`quantize.linear`: post-training static quantization to 8-bit integers."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from pydantic import BaseModel, JsonValue, ValidationError
from torch import Tensor, nn

from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.quantize.assembly import Plan, assemble, placement_of
from core.compression.quantize.calibration import watch
from core.compression.quantize.correction import correct_biases
from core.compression.quantize.ranges import choose_range
from core.compression.quantize.saturation import GRIDS, Choice, kernels_saturate
from core.compression.quantize.sensitivity import keep_float, measure_layers, rank
from core.compression.quantize.weights import Chosen, Trial, choose_grid, repeat_grid
from core.compression.yardstick import Yardstick, choosing_split, input_batches
from core.errors import ModelpressError
from core.findings import make_finding
from core.measure.runtime import open_session, run_session
from core.network.encodings import Grid
from core.network.export import export_onnx
from core.network.export_graph import is_shared
from core.network.network import Network
from core.specs.linear import LinearQuantization
from core.verdict import Finding, Sensitivity

# Samples on which the limit of the quality is judged.
LIMIT_SAMPLES = 2000
# Samples on which the target's answers are compared with exact integers.
PROBES = 32


@final
class LinearQuantizer(Method[LinearQuantization]):
    """Jacob et al. 2018 (arXiv 1712.05877): weights symmetric by channel, activations asymmetric by tensor."""

    def apply(self, network: Network, spec: LinearQuantization, context: Context) -> tuple[Network, Report]:
        """Calibrate, rank layers, keep float what must, choose the weights' grid; raises `missing_data`."""
        _refuse_unknown(spec)
        dataset = context.needed_dataset()
        if not dataset.count("calibration"):
            raise ModelpressError("missing_data", "The data set has no calibration samples and none to draw them from.")
        layers, left_out = _choose_layers(network, spec)
        plan = _calibrate(network, layers, spec, context)
        sensitivities = measure_layers(
            network,
            lambda chosen: assemble(network, replace(plan, layers=chosen)),
            plan.layers,
            context,
            span=(0.35, 0.65),
        )
        plan, findings, kept = _keep_limit(network, plan, sensitivities, context)
        if plan.layers:
            context.progress(0.75, "Choosing the weights' grid")
            chosen = _choose_weights(network, plan, spec, context)
        else:
            chosen = Chosen("full_range", network, "No layer is quantized.", 0.0, None)
        context.log(chosen.why)
        if chosen.finding is not None:
            findings = (*findings, chosen.finding)
        kept_float = sorted({*left_out, *kept, *spec.keep_float})
        report = Report(
            layers=tuple(sorted(plan.layers)),
            sensitivities=sensitivities,
            findings=findings,
            plan=_plan_record(plan, chosen, kept_float),
        )
        context.progress(1.0, f"{len(plan.layers)} layers quantized")
        return chosen.network, report


def _refuse_unknown(spec: LinearQuantization) -> None:
    known = LinearQuantization(calibration=spec.calibration, saturation=spec.saturation, keep_float=spec.keep_float)
    if spec != known:
        sentence = "Of quantize.linear only 8-bit weights and activations without further settings work so far."
        raise ModelpressError("method_not_applicable", sentence)


def _choose_layers(network: Network, spec: LinearQuantization) -> tuple[frozenset[str], tuple[str, ...]]:
    """The layers to quantize, and those that could be but share their weights or are called more than once."""
    chosen: set[str] = set()
    left_out: set[str] = set()
    calls: dict[str, int] = {}
    for node in network.graph.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for path, count in calls.items():
        layer = network.graph.get_submodule(path)
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear | nn.Embedding) or path in spec.keep_float:
            continue
        alone = count == 1 and not is_shared(network.graph, layer.weight) and f"{path}.weight" not in network.encodings
        (chosen if alone else left_out).add(path)
    if not chosen:
        raise ModelpressError(
            "unsupported_layer", "No convolution, linear layer or table of embeddings is left to quantize."
        )
    return frozenset(chosen), tuple(sorted(left_out))


def _calibrate(network: Network, layers: frozenset[str], spec: LinearQuantization, context: Context) -> Plan:
    """Ranges of all values that may be rounded, and corrections of biases; samples pass twice and are not kept."""
    dataset = context.needed_dataset()
    limit = min(spec.calibration.samples, dataset.count("calibration"))
    sources = placement_of(network, layers).sources
    histograms = watch(network.graph, sources, input_batches(network, dataset, "calibration", limit=limit))
    ranges = {source: choose_range(histogram, spec.calibration) for source, histogram in histograms.items()}
    context.progress(0.3, f"Ranges of {len(ranges)} values from {limit} samples")
    grid = GRIDS["full_range"]
    batches = input_batches(network, dataset, "calibration", limit=limit)
    return Plan(layers, ranges, grid, correct_biases(network.graph, layers, grid, batches))


def _keep_limit(
    network: Network, plan: Plan, sensitivities: dict[str, Sensitivity], context: Context
) -> tuple[Plan, tuple[Finding, ...], tuple[str, ...]]:
    """The plan without the layers that must stay float for `max_drop` to hold on the choosing split."""
    limit = context.constraints.max_drop
    if limit is None:
        return plan, (), ()
    context.progress(0.65, "Trying whether the limit of the quality holds")
    dataset = context.needed_dataset()
    split = choosing_split(dataset)
    yardstick = Yardstick(network, dataset, split=split, limit=LIMIT_SAMPLES)
    ranked = rank(sensitivities)
    kept = keep_float(lambda layers: assemble(network, replace(plan, layers=layers)), ranked, yardstick, limit)
    if not kept.layers:
        return plan, (), ()
    text = (
        f"Quantizing every layer would cost {kept.drop_of_all:.4f} of quality on {yardstick.samples} {split} samples, "
        f"more than the limit of {limit:g}; with {', '.join(kept.layers)} in float it costs {kept.drop:.4f}."
    )
    finding = make_finding("layers_kept_float", text)
    return replace(plan, layers=plan.layers - frozenset(kept.layers)), (finding,), kept.layers


def _choose_weights(network: Network, plan: Plan, spec: LinearQuantization, context: Context) -> Chosen:
    dataset = context.needed_dataset()
    threads = context.target.threads
    split = choosing_split(dataset)
    inputs = next(input_batches(network, dataset, "calibration", limit=PROBES, batch=PROBES))
    corrections: dict[Grid, dict[str, Tensor]] = {plan.grid: plan.corrections}

    def build(grid: Grid) -> Network:
        if grid not in corrections:
            limit = min(spec.calibration.samples, dataset.count("calibration"))
            batches = input_batches(network, dataset, "calibration", limit=limit)
            corrections[grid] = correct_biases(network.graph, plan.layers, grid, batches)
        return assemble(network, replace(plan, grid=grid, corrections=corrections[grid]))

    def run(quantized: Network) -> Tensor:
        return _answer_of_file(quantized, inputs, threads)

    yardstick = Yardstick(network, dataset, split=split, limit=LIMIT_SAMPLES)
    trial = Trial(build, run, inputs, yardstick)
    saturates = kernels_saturate(threads)
    if (recorded := _recorded_weights(context)) is not None:
        return repeat_grid(recorded.choice, recorded.why, trial, saturates=saturates)
    return choose_grid(spec.saturation, trial, saturates=saturates)


class _RecordedWeights(BaseModel):
    """What an earlier run has written into its plan about the weights' grid."""

    choice: Choice
    why: str


def _recorded_weights(context: Context) -> _RecordedWeights | None:
    if context.recorded is None:
        return None
    try:
        return _RecordedWeights.model_validate(context.recorded.get("weights"))
    except ValidationError as error:
        sentence = f"The plan does not say which weights {context.step} chose."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error


def _answer_of_file(network: Network, inputs: tuple[Tensor, ...], threads: int) -> Tensor:
    """The first output of the exported file in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        export_onnx(network, path, probes=inputs)
        feed = {tensor.name: value.numpy() for tensor, value in zip(network.inputs, inputs, strict=True)}
        return torch.from_numpy(run_session(open_session(path, threads), feed)[0])


def _plan_record(plan: Plan, chosen: Chosen, kept_float: list[str]) -> dict[str, JsonValue]:
    """All that was decided, as JSON."""
    return {
        "layers": list[JsonValue](sorted(plan.layers)),
        "kept_float": list[JsonValue](kept_float),
        "ranges": {source: list(ends) for source, ends in sorted(plan.ranges.items())},
        "weights": {"choice": chosen.choice, "why": chosen.why, "difference_from_exact": chosen.difference},
    }
