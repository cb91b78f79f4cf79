"""The papers that come with a result: report, recipe, plan, log, and a README for whoever gets the file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pydantic import JsonValue

from core.compression.method import Report
from core.description import ModelDescription, TensorDescription
from core.messages import RunJob, StagedFile
from core.verdict import Reproduce, Verdict
from core.versions import versions

PLAN = "plan.json"


def reproduce_of(request: RunJob, artifact: Path) -> Reproduce:
    """What is needed to make `artifact` again."""
    recipe = request.recipe.model_dump_json().encode()
    return Reproduce(
        recipe_sha256=hashlib.sha256(recipe).hexdigest(),
        plan=PLAN,
        seed=request.seed,
        versions=versions(),
        artifact_sha256=hashlib.sha256(artifact.read_bytes()).hexdigest(),
    )


@final
@dataclass(frozen=True)
class Papers:
    """Writes what is told beside the model's files."""

    request: RunJob
    description: ModelDescription
    reports: tuple[Report, ...]

    def write(self, folder: Path, verdict: Verdict, log: list[str], names: tuple[str, ...]) -> None:
        """Write all papers into `folder`, beside the model's files, which are `names`."""
        _write_json(folder / PLAN, self._plan())
        _write_json(folder / "recipe.json", self.request.recipe.model_dump(mode="json"))
        (folder / "report.json").write_text(verdict.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self._readme(verdict, names), encoding="utf-8")
        (folder / "log.txt").write_text("\n".join(log) + "\n", encoding="utf-8")

    def _plan(self) -> JsonValue:
        return {
            "seed": self.request.seed,
            "versions": dict[str, JsonValue](versions()),
            "model": _digests(self.request.model),
            "dataset": _digests(self.request.dataset),
            "models": {identifier: _digests(files) for identifier, files in sorted(self.request.models.items())},
            "steps": [
                {"method": spec.method, **report.plan}
                for spec, report in zip(self.request.recipe.steps, self.reports, strict=True)
            ],
        }

    def _readme(self, verdict: Verdict, names: tuple[str, ...]) -> str:
        before, after, conditions = verdict.original, verdict.result, verdict.conditions
        lines = ["# A smaller network", "", verdict.sentence, "", "| | original | result |", "| --- | --- | --- |"]
        lines.append(f"| bytes, stripped | {before.bytes_stripped:,} | {after.bytes_stripped:,} |")
        if before.quality is not None and after.quality is not None:
            split, samples = after.quality.split, after.quality.n
            title = f"{after.quality.metric}, {samples:,} {split} samples"
            lines.append(f"| {title} | {before.quality.value:.4f} | {after.quality.value:.4f} |")
        for title, was, now in (
            ("parameters", before.parameters, after.parameters),
            ("multiply-adds of a sample", before.macs, after.macs),
        ):
            if was != now:
                lines.append(f"| {title} | {was:,} | {now:,} |")
        for one, other in zip(before.latency, after.latency, strict=True):
            lines.append(f"| ms at batch {one.batch} | {one.median_ms:.3f} | {other.median_ms:.3f} |")
        lines.append("")
        lines.append(f"Measured with {conditions.runtime}, threads {conditions.threads}, on {conditions.cpu}.")
        if verdict.findings:
            lines += ["", "## Findings", ""]
            lines += [f"* **{finding.code}**: {finding.text}" for finding in verdict.findings]
        lines += _say_pruned(verdict)
        lines += [
            "",
            "## Use",
            "",
            "```python",
            *_usage(self.description.inputs, conditions.runtime),
            "```",
            "",
            *_say_files(names),
            "",
        ]
        return "\n".join(lines)


def _say_files(names: tuple[str, ...]) -> list[str]:
    """A line on each file that there is."""
    told = {
        "model.onnx": "`model.onnx` runs in onnxruntime.",
        "model.pt2": "`model.pt2` computes the same with plain ATen operators (`torch.export.load`).",
        "model.safetensors": "`model.safetensors` holds the stored numbers.",
    }
    return [
        *(told[name] for name in names),
        "`report.json` is the whole verdict, `plan.json` and `recipe.json` say how to make the files again.",
    ]


def _say_pruned(verdict: Verdict) -> list[str]:
    """A table of the layers that were pruned: their shapes, and how their loss rises; nothing where none was."""
    if not verdict.pruned_layers:
        return []
    shares = verdict.kept_shares
    heads = ["layer", "shape", *(f"loss at {share:.0%}" for share in shares)]
    lines = ["", "## Pruned layers", "", f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for layer in verdict.pruned_layers:
        increases = (layer.sensitivity.increase_at(share) for share in shares)
        told = ("–" if increase is None else f"{increase:+.4f}" for increase in increases)
        lines.append(f"| {' | '.join((layer.name, layer.shapes, *told))} |")
    lines.append("")
    if shares:
        lines.append("Loss at 50%: how much it rises on the samples for choosing when half of that layer alone stays.")
    if any(layer.shape_before for layer in verdict.pruned_layers):
        lines.append(f"Which of a layer's old outputs the new ones are stands in `{PLAN}`, as `outputs` of the step.")
    return lines


def _usage(inputs: tuple[TensorDescription, ...], runtime: str) -> list[str]:
    """A program that runs the file in the runtime that it was measured in."""
    feed = ", ".join(f'"{tensor.name}": {tensor.name}' for tensor in inputs)
    shapes = []
    for tensor in inputs:
        sizes = [1 if isinstance(size, str) else size for size in tensor.shape]
        shapes.append(f"{tensor.name} = np.zeros({sizes}, np.{tensor.dtype})")
    if runtime.startswith("openvino"):
        return [
            "import numpy as np, openvino",
            'settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}',
            'model = openvino.Core().compile_model("model.onnx", "CPU", settings)',
            *shapes,
            f"outputs = list(model({{{feed}}}).values())",
        ]
    return [
        "import numpy as np, onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
        *shapes,
        f"outputs = session.run(None, {{{feed}}})",
    ]


def _digests(files: Sequence[StagedFile]) -> list[JsonValue]:
    return [{"filename": file.filename, "sha256": file.sha256, "bytes": file.bytes} for file in files]


def _write_json(path: Path, value: JsonValue) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
