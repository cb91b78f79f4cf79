"""`quantize.linear`: post-training quantization to integers."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from core.compression.candidates import Candidate, find_candidates
from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.quantize.assembly import Plan, assemble, can_round, placement_of
from core.compression.quantize.calibration import watch
from core.compression.quantize.encoded_weights import WeightRounder, tell_samples
from core.compression.quantize.linear_record import Recorded, read_record, write_record
from core.compression.quantize.ranges import USUAL, Range, choose_range, settle_symmetry
from core.compression.quantize.rescaling import rescale
from core.compression.quantize.saturation import GRIDS, kernels_saturate
from core.compression.quantize.weights import Chosen, Trial, choose_grid, repeat_grid
from core.compression.sensitivity import keep_float, measure_layers, rank
from core.compression.yardstick import Yardstick, choosing_split, input_batches
from core.errors import ModelpressError
from core.findings import make_finding
from core.measure.engine import OPENVINO
from core.measure.runtime import open_session, run_session
from core.network.encodings import Grid, Masked
from core.network.export import export_onnx
from core.network.network import Network
from core.specs.linear import LinearQuantization
from core.verdict import Finding, Sensitivity

# Samples on which the limit of the quality is judged.
LIMIT_SAMPLES = 2000
# Samples on which the target's answers are compared with exact integers.
PROBES = 32
FULL = GRIDS["full_range"]


@final
class LinearQuantizer(Method[LinearQuantization]):
    """Jacob et al. 2018 (arXiv 1712.05877), for weights of 2 to 8 bits and activations of 4 to 16 or none."""

    def apply(self, network: Network, spec: LinearQuantization, context: Context) -> tuple[Network, Report]:
        """Calibrate, rank layers, keep float what must, choose the weights' grid; raises `missing_data`."""
        if spec.calibration_samples() and not context.needed_dataset().count("calibration"):
            raise ModelpressError("missing_data", "The data set has no calibration samples and none to draw them from.")
        recorded = read_record(context)
        network, rescaled = rescale(network, spec, context)
        job = _Job(network, spec, context, recorded)
        plan = job.plan()
        sensitivities = job.measure(plan)
        plan, kept = job.keep_limit(plan, sensitivities)
        chosen = job.choose(plan)
        context.log(chosen.why)
        job.log_floats(plan)
        findings = tuple(found for found in (kept.finding, chosen.finding) if found is not None)
        kept_float = sorted({*job.left_out, *kept.layers, *spec.keep_float})
        report = Report(
            layers=tuple(sorted({*plan.layers, *rescaled})),
            sensitivities=sensitivities,
            findings=findings,
            plan=write_record(plan, chosen, kept_float, kept.finding),
        )
        context.progress(1.0, f"{len(plan.layers)} layers quantized")
        return chosen.network, report


@dataclass(frozen=True)
class _Kept:
    """Layers that stay float so that a limit holds, and what is said of them."""

    layers: tuple[str, ...] = ()
    finding: Finding | None = None


@final
class _Job:
    """One run of the method on one network."""

    def __init__(self, network: Network, spec: LinearQuantization, context: Context, recorded: Recorded | None) -> None:
        self._network, self._spec, self._context, self._recorded = network, spec, context, recorded
        self._candidates, self.left_out = find_candidates(network, spec.keep_float, takes=spec.takes)
        _refuse_masks(network, self._candidates, spec)
        self._rounder = WeightRounder(network, self._candidates, spec, context)
        # onnxruntime multiplies unsigned activations, OpenVINO those without a zero point.
        self._signed = context.target.runtime == OPENVINO
        layers = {each.path: each.layer for each in self._candidates}
        self._rounded = frozenset(
            path for path, layer in layers.items() if spec.rounds_input(path) and can_round(layer, spec.activations)
        )

    def plan(self) -> Plan:
        """Weights on all their bits, ranges of all values that may be rounded, corrections of biases."""
        layers = frozenset(each.path for each in self._candidates)
        ranges = self._ranges()
        weights = self._rounder.round(FULL, self._rounded, (0.1, 0.35))
        return Plan(
            layers=layers,
            weights=weights.integers,
            rounded=self._rounded,
            activations=self._spec.activations or USUAL,
            signed=self._signed,
            ranges=ranges,
            corrections=weights.corrections,
        )

    def _ranges(self) -> dict[str, Range]:
        """Of each value that is rounded to a range known beforehand; samples pass once and are not kept."""
        asked = self._spec.activations
        if asked is None or asked.mode == "dynamic":
            return {}
        sources = placement_of(self._network, self._rounded).sources
        if self._recorded is not None:
            return self._recorded.ranges_of(sources)
        dataset = self._context.needed_dataset()
        limit = min(self._spec.calibration.samples, dataset.count("calibration"))
        batches = input_batches(self._network, dataset, "calibration", limit=limit)
        told = tell_samples(batches, limit, lambda share, text: self._context.progress(0.1 * share, text), "Ranges")
        histograms = watch(self._network.graph, sources, told)
        settle = settle_symmetry if self._signed else lambda _, grid: grid
        ranges = {
            source: choose_range(each, self._spec.calibration, settle(each, asked))
            for source, each in histograms.items()
        }
        self._context.progress(0.1, f"Ranges of {len(ranges)} values from {limit} samples")
        return ranges

    def measure(self, plan: Plan) -> dict[str, Sensitivity]:
        """What each layer costs alone, where there are samples to see it on."""
        if not self._can_judge():
            return {}

        def build(chosen: frozenset[str]) -> Network:
            return assemble(self._network, replace(plan, layers=chosen))

        return measure_layers(self._network, build, plan.layers, self._context, span=(0.35, 0.65))

    def _can_judge(self) -> bool:
        dataset = self._context.dataset
        return dataset is not None and any(dataset.count(split) for split in ("validation", "calibration"))

    def keep_limit(self, plan: Plan, sensitivities: dict[str, Sensitivity]) -> tuple[Plan, _Kept]:
        """The plan without the layers that must stay float for `max_drop` to hold on the choosing split."""
        limit = self._context.constraints.max_drop
        if self._recorded is not None:
            return self._repeat_limit(plan, self._recorded)
        if limit is None or not self._can_judge():
            return plan, _Kept()
        self._context.progress(0.65, "Trying whether the limit of the quality holds")
        yardstick = self._yardstick()
        kept = keep_float(
            lambda layers: assemble(self._network, replace(plan, layers=layers)), rank(sensitivities), yardstick, limit
        )
        if not kept.layers:
            return plan, _Kept()
        split = choosing_split(self._context.needed_dataset())
        text = (
            f"Quantizing every layer would cost {kept.drop_of_all:.4f} of quality on {yardstick.samples} {split} "
            f"samples, more than the limit of {limit:g}; with {', '.join(kept.layers)} in float it costs "
            f"{kept.drop:.4f}."
        )
        left = replace(plan, layers=plan.layers - frozenset(kept.layers))
        return left, _Kept(kept.layers, make_finding("layers_kept_float", text))

    def _repeat_limit(self, plan: Plan, recorded: Recorded) -> tuple[Plan, _Kept]:
        layers = recorded.layers_of(plan.layers)
        why = recorded.why_float
        finding = None if why is None else make_finding("layers_kept_float", why)
        return replace(plan, layers=layers), _Kept(tuple(sorted(plan.layers - layers)), finding)

    def choose(self, plan: Plan) -> Chosen:
        """The network on the grid of weights that this CPU multiplies exactly."""
        multiplied = plan.layers & self._saturating()
        if not multiplied:
            # Sums of fewer bits fit, and floats have no such limit.
            why = (
                "No product of 8-bit integers is left that could saturate." if plan.layers else "No layer is quantized."
            )
            made = assemble(self._network, plan) if plan.layers else self._network
            return Chosen("full_range", made, why, 0.0, None)
        self._context.progress(0.75, "Choosing the weights' grid")
        dataset, threads = self._context.needed_dataset(), self._context.target.threads
        inputs = next(input_batches(self._network, dataset, "calibration", limit=PROBES, batch=PROBES), None)
        if inputs is None:
            raise ModelpressError("missing_data", "The calibration split has too few samples for one batch.")
        trial = Trial(
            self._builder(plan), lambda made: _answer_of_file(made, inputs, threads), inputs, self._yardstick()
        )
        saturates = kernels_saturate(threads)
        if self._recorded is not None:
            return repeat_grid(self._recorded.weights.choice, self._recorded.weights.why, trial, saturates=saturates)
        return choose_grid(self._spec.saturation, trial, saturates=saturates)

    def log_floats(self, plan: Plan) -> None:
        """Say which layers run on floats although their inputs are rounded."""
        asked = self._spec.activations
        rounded = plan.rounded & plan.layers
        kernels = asked is not None and asked.bits <= FULL.bits
        floats = sorted(path for path in rounded if not (kernels and plan.weights[path].has_kernel))
        if floats:
            why = "these grids" if kernels else "16-bit activations"
            self._context.log(f"The runtime has no integer kernel for {why}: on floats run {', '.join(floats)}.")

    def _saturating(self) -> frozenset[str]:
        """Layers whose products may leave 16 bits: symmetric weights of 8 bits times 8-bit activations."""
        asked = self._spec.activations
        if asked is None or asked.bits > FULL.bits:
            return frozenset()
        grids = {path: self._spec.weights_of(path) for path in self._rounded}
        return frozenset(
            path for path, grid in grids.items() if grid.bits == FULL.bits and grid.symmetric and grid.per != "group"
        )

    def _builder(self, plan: Plan) -> Callable[[Grid], Network]:
        def build(grid: Grid) -> Network:
            weights = self._rounder.round(grid, self._rounded, (0.75, 0.8))
            return assemble(self._network, replace(plan, weights=weights.integers, corrections=weights.corrections))

        return build

    def _yardstick(self) -> Yardstick:
        dataset = self._context.needed_dataset()
        return Yardstick(self._network, dataset, split=choosing_split(dataset), limit=LIMIT_SAMPLES)


def _refuse_masks(network: Network, candidates: tuple[Candidate, ...], spec: LinearQuantization) -> None:
    """Raises `method_not_applicable` for asymmetric integers under a mask, of which none means zero everywhere."""
    for each in candidates:
        masked = isinstance(network.encodings.get(each.name), Masked)
        grid = spec.weights_of(each.path)
        if masked and not grid.symmetric and grid.per != "tensor":
            sentence = f"The weight of {each.path} is under a mask, which takes symmetric integers or one scale in all."
            raise ModelpressError("method_not_applicable", sentence, layer=each.path)


def _answer_of_file(network: Network, inputs: tuple[Tensor, ...], threads: int) -> Tensor:
    """The first output of the exported file in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        export_onnx(network, path, probes=inputs)
        feed = {tensor.name: value.numpy() for tensor, value in zip(network.inputs, inputs, strict=True)}
        return torch.from_numpy(run_session(open_session(path, threads), feed)[0])
