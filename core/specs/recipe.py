"""A recipe, and what is asked of a job: target, constraints, limits."""

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Asked
from core.specs.codebook import CodebookQuantization
from core.specs.distill import BlockDistillation, FeatureDistillation, LogitDistillation
from core.specs.float import FloatQuantization
from core.specs.levels import BinaryQuantization, LogQuantization, TernaryQuantization
from core.specs.linear import LinearQuantization
from core.specs.mask_pruning import KernelPruning, VectorPruning, WeightPruning
from core.specs.mixed import MixedQuantization
from core.specs.onnx_quantize import OnnxQuantization
from core.specs.structured_pruning import ChannelPruning, LayerPruning
from core.specs.train import Finetune

Step = Annotated[
    LinearQuantization
    | MixedQuantization
    | LogQuantization
    | TernaryQuantization
    | BinaryQuantization
    | CodebookQuantization
    | FloatQuantization
    | OnnxQuantization
    | WeightPruning
    | VectorPruning
    | KernelPruning
    | ChannelPruning
    | LayerPruning
    | LogitDistillation
    | FeatureDistillation
    | BlockDistillation
    | Finetune,
    Field(discriminator="method"),
]


class Recipe(Asked):
    """An ordered list of steps."""

    version: Literal[1] = 1
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=32)]

    def references(self) -> dict[str, str]:
        """The ids of other models that the steps need, by JSON pointer into the job."""
        return {
            f"/recipe/steps/{position}/{place}": identifier
            for position, step in enumerate(self.steps)
            for place, identifier in step.references().items()
        }

    def misplaced(self) -> tuple[int, str] | None:
        """The first step that cannot follow those before it, by position, and why; None where all can."""
        for position, step in enumerate(self.steps):
            before = self.steps[:position]
            if step.works_on == "network" and any(each.works_on == "file" for each in before):
                return position, f"{step.method} works on a network, and an earlier step leaves only a file."
            if step.works_on == "file" and any(each.family == "quantize" for each in before):
                return position, f"{step.method} works on float weights, and an earlier step has quantized them."
            if before and step.replaces():
                return position, f"{step.method} puts another network in the place of what earlier steps have made."
        return None


class Target(Asked):
    """The runtime and the conditions that a result is for and measured under."""

    runtime: Literal["onnxruntime-cpu", "openvino-cpu", "auto"] = Field(
        "onnxruntime-cpu",
        description="The runtime that quality, time and memory are measured in. `auto` times every runtime that is "
        "installed and takes the fastest for the result; `openvino-cpu` needs the extra `openvino` on the workers.",
    )
    threads: int = Field(1, ge=1, le=64, description="Threads of the runtime.")
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (1, 32), min_length=1, max_length=8, description="Batch sizes at which latency is measured."
    )


class Constraints(Asked):
    """What the result must keep to; judged on the evaluation split."""

    max_drop: float | None = Field(
        None, ge=0, description="Largest allowed change of the quality metric in its bad direction, absolute."
    )
    max_bytes: int | None = Field(None, gt=0, description="Largest allowed size of the file, in bytes.")
    max_latency_ms: float | None = Field(
        None, gt=0, description="Largest allowed median latency at the first batch size, in milliseconds."
    )


class Limits(Asked):
    """What a job may use before it is stopped."""

    minutes: float = Field(60, gt=0, le=10_080, description="Wall time, in minutes.")
    memory_bytes: int = Field(8_000_000_000, ge=500_000_000, description="Memory of the runner, in bytes.")
