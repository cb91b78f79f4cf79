"""Honest ranges of what a job will take, from the description alone.

The constants bracket jobs of eight networks from 0.27 to 41 M multiply-adds, on a two-core machine that did nothing
else and on the same machine under four times its load; a test holds them to it. The verdict has the real figures.
"""

from collections.abc import Mapping

from core.description import DatasetDescription, ModelDescription
from core.resources.job import JobCreate, Range
from core.specs.base import Spec
from core.specs.pruning import Pruning
from core.specs.recipe import Step
from core.specs.train import Finetune, Training
from core.specs.weight_bits import Bits

# Multiply-adds of fp32 a second on one thread, slow and fast machine.
_SLOW_MACS, _FAST_MACS = 3e9, 8e10
# Starting the sandbox, importing torch, reading, exporting and checking the file, in seconds.
_FIXED_SECONDS = (8.0, 80.0)
# Time a sample needs beside its multiply-adds, in seconds.
_SAMPLE_SECONDS = (2e-6, 5e-4)
# Samples of each split that are drawn where there is no data set.
_DRAWN_SAMPLES = 512
# Samples on which each layer is pruned alone, once as asked and at three shares for its curve.
_PRUNED_ALONE = 256 + 3 * 64
# Shares that are tried where quality is the budget.
_DROP_TRIALS = 8
# Timed runs and warm-up of each file at each batch size.
_LATENCY_RUNS = (100, 400)
# Forward passes that an update costs, what a teacher's answers cost besides, and what judgements add.
_LEARNING_PASSES, _TEACHER_PASSES, _JUDGED = 3, 1, 1.15
# Interpreter with torch and onnxruntime loaded, in bytes.
_FIXED_MEMORY = (350e6, 900e6)
# Operators that have graphs inside.
_INNER = frozenset({"If", "Loop", "Scan"})
# The file's graph beside its weights: bytes for each operator.
_NODE_BYTES = (60, 900)
_NODES_A_LAYER = 4


def estimate_seconds(asked: JobCreate, model: ModelDescription, data: DatasetDescription | None, steps: int) -> Range:
    """Wall time: calibration, one sensitivity pass for each layer, training, evaluation of both files, latency."""
    samples = _samples(asked, model, data)
    runs = sum(asked.target.batch_sizes)
    low = (samples + _LATENCY_RUNS[0] * runs) * (model.macs / _FAST_MACS + _SAMPLE_SECONDS[0])
    high = (samples + _LATENCY_RUNS[1] * runs) * (model.macs / _SLOW_MACS + _SAMPLE_SECONDS[1])
    for step in asked.recipe.steps:
        training, times = _trainings(step)
        if training is not None:
            # What rounds of pruning leave is faster, by a share that is not known.
            low += _learning_seconds(training, data, model.macs / _FAST_MACS + _SAMPLE_SECONDS[0])
            high += times * _learning_seconds(training, data, model.macs / _SLOW_MACS + _SAMPLE_SECONDS[1])
    ceiling = asked.limits.minutes * 60
    return Range(
        low=round(min(_FIXED_SECONDS[0] + low, ceiling), 1),
        high=round(min(_FIXED_SECONDS[1] * steps + high, ceiling), 1),
    )


def _trainings(step: Step) -> tuple[Training | None, int]:
    """How a step trains, and how often."""
    if isinstance(step, Pruning) and step.schedule is not None:
        return step.schedule.train, step.schedule.rounds
    return (step, 1) if isinstance(step, Training) else (None, 0)


def _learning_seconds(step: Training, data: DatasetDescription | None, pass_seconds: float) -> float:
    """Passes forward and backward of every sample that is learnt from, and the judgements between them."""
    splits = {} if data is None else data.splits
    learnt = next((splits[name].samples for name in ("train", "calibration") if name in splits), 0)
    passes = _LEARNING_PASSES if isinstance(step, Finetune) else _LEARNING_PASSES + _TEACHER_PASSES
    found = passes * _JUDGED * step.samples_learnt(learnt) * pass_seconds
    return found if step.minutes is None else min(found, step.minutes * 60)


def estimate_memory(asked: JobCreate, model: ModelDescription, data_bytes: int) -> Range:
    """Peak resident bytes: a few copies of the weights, activations of the largest batch, the data in part or twice."""
    weights = 4 * model.parameters
    batch = max(*asked.target.batch_sizes, 32)
    activations = model.planned_activation_bytes * batch
    low = _FIXED_MEMORY[0] + 2 * weights + activations
    high = _FIXED_MEMORY[1] + 8 * weights + 8 * activations + 6 * data_bytes
    return Range(low=round(low), high=round(high))


def estimate_bytes(asked: JobCreate, model: ModelDescription, chosen: Mapping[str, Bits]) -> Range:
    """Size of the file: weights of the chosen layers at their bits, the rest as it is, plus the graph."""
    layers = [layer for layer in model.layers if layer.name in chosen and layer.tied_to is None]
    narrow = sum(layer.parameters for layer in layers)
    low, high = (sum(layer.parameters * chosen[layer.name][end] / 8 for layer in layers) for end in (0, 1))
    # What is inside of branches and loops is in no layer and counts as no parameter, but is in the file.
    whole = 4 * model.parameters if model.mode == "network" else max(model.bytes_stripped, 4 * model.parameters)
    kept = whole - 4 * narrow
    nodes = sum(model.operators.values()) + _NODES_A_LAYER * len(chosen)
    # Of that, quantizers of files may take all.
    least = kept // 4 if model.mode == "onnx_only" and _INNER & set(model.operators) else kept
    low += least + _NODE_BYTES[0] * nodes
    high += kept + _NODE_BYTES[1] * nodes
    if asked.constraints.max_drop is not None:
        # Layers that cost too much quality stay float.
        high = max(high, model.bytes_stripped + _NODE_BYTES[1] * nodes)
    return Range(low=round(low), high=round(high))


def _samples(asked: JobCreate, model: ModelDescription, data: DatasetDescription | None) -> int:
    """Samples that run through the network: both files evaluated, and calibration."""
    drawn = {"evaluation": _DRAWN_SAMPLES, "calibration": _DRAWN_SAMPLES}
    counts = drawn if data is None else {name: split.samples for name, split in data.splits.items()}
    available = counts.get("calibration", counts.get("train", 0))
    # A network is calibrated twice, and tried with each layer alone; a file is calibrated once.
    passes = {"network": 2 + len(model.layers), "file": 1}
    calibration = sum(
        (passes[step.works_on] + _again(step)) * min(_seen(step), available) for step in asked.recipe.steps
    )
    return 3 * counts.get("evaluation", 0) + calibration


def _again(step: Spec) -> int:
    """Passes of a prune that ranks and judges more than once: in rounds, or to find what a drop allows."""
    if not isinstance(step, Pruning):
        return 0
    times = _DROP_TRIALS if step.spends_drop else 1
    if step.schedule is not None:
        times = step.schedule.rounds
    return 2 * (times - 1)


def _seen(step: Spec) -> int:
    """Calibration samples that a pass of a step takes; pruning tries layers alone whatever it ranks them by."""
    return max(step.calibration_samples(), _PRUNED_ALONE if step.family == "prune" else 0)
