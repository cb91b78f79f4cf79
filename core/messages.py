"""What supervisor and runner say to each other: a request file in, JSON lines and files out.

The runner is started as `python -I -m runner WORKDIR`. It reads `WORKDIR/request.json` (a `Request`), writes one
`Message` a line to standard output and its files below `WORKDIR/out`. The supervisor treats every line as hostile:
it is capped at `LINE_LIMIT` bytes and checked against these classes.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from core.description import DatasetDescription, DatasetSpec, ModelDescription
from core.specs.recipe import Constraints, Recipe, Target
from core.states import StepState
from core.verdict import Verdict

LINE_LIMIT = 4 * 1024 * 1024


class Said(BaseModel):
    """Base of requests and messages: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StagedFile(Said):
    """One uploaded file as the runner finds it: a read-only path, and the name the user gave it (a label only)."""

    path: str
    filename: str
    sha256: str
    bytes: int


class InspectModel(Said):
    """Asks for the description of an uploaded model."""

    kind: Literal["inspect_model"] = "inspect_model"
    files: tuple[StagedFile, ...]
    seed: int = 0


class InspectDataset(Said):
    """Asks for the description of an uploaded data set."""

    kind: Literal["inspect_dataset"] = "inspect_dataset"
    files: tuple[StagedFile, ...]
    spec: DatasetSpec


class Resume(Said):
    """Checkpoints that a run goes on from: what the first `steps` steps have made, and the state of the next one.

    `finished` is empty where no step has ended yet, `partial` where the next one has not kept anything. `job` is whose
    checkpoints they are: that of this run, or another of the same beginning.
    """

    job: str
    steps: int = Field(ge=0, le=32)
    finished: tuple[StagedFile, ...] = ()
    partial: tuple[StagedFile, ...] = ()


class RunJob(Said):
    """Asks for one run of a recipe."""

    kind: Literal["run_job"] = "run_job"
    job: str
    recipe: Recipe
    target: Target
    constraints: Constraints
    seed: int
    model: tuple[StagedFile, ...]
    dataset: tuple[StagedFile, ...] = ()
    dataset_spec: DatasetSpec | None = None
    # The other models that the recipe names, by id.
    models: dict[str, tuple[StagedFile, ...]] = Field(default_factory=dict)
    # The measuring lock of the host, as a path that is flock-ed while latency is measured.
    lock_path: str
    # Time after which a long step writes down its state again.
    checkpoint_seconds: float = Field(300, gt=0)
    resume: Resume | None = None
    # The `plan.json` of an earlier job, whose decisions are followed.
    plan: StagedFile | None = None


Request = Annotated[InspectModel | InspectDataset | RunJob, Field(discriminator="kind")]


class ProgressMessage(Said):
    """How far the work is; `fraction` and `eta_seconds` are of the whole job, the others of the step that runs."""

    kind: Literal["progress"] = "progress"
    step: int | None = None
    method: str
    fraction: float = Field(ge=0, le=1)
    eta_seconds: float | None = Field(None, ge=0)
    step_fraction: float | None = Field(None, ge=0, le=1)
    step_eta_seconds: float | None = Field(None, ge=0)
    message: str = Field("", max_length=500)


class StepMessage(Said):
    """A step changed its state: prepare, a method of the recipe, export or measure, counted from 0 by `position`."""

    kind: Literal["step"] = "step"
    position: int = Field(ge=0, le=100)
    name: str = Field(max_length=100)
    state: StepState
    seconds: float | None = Field(None, ge=0)
    message: str = Field("", max_length=500)
    quality: float | None = None


class MetricMessage(Said):
    """One measured number; `at` is the position in a series (an epoch, a batch), None for a single value."""

    kind: Literal["metric"] = "metric"
    name: str = Field(max_length=100)
    value: float
    unit: str = Field("", max_length=20)
    split: str | None = Field(None, max_length=20)
    subject: Literal["original", "result", "change"] = "result"
    step: str | None = Field(None, max_length=100)
    at: float | None = None
    conditions: dict[str, JsonValue] = Field(default_factory=dict)


class LogMessage(Said):
    """One line of the log."""

    kind: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    step: str | None = Field(None, max_length=100)
    text: str = Field(max_length=4000)


class ArtifactFile(Said):
    """One file of an artifact, as a path relative to `WORKDIR/out`; no part of it begins with a dot."""

    path: str = Field(max_length=255, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    filename: str = Field(max_length=255)


class ArtifactMessage(Said):
    """Files below `WORKDIR/out` that are to be kept."""

    kind: Literal["artifact"] = "artifact"
    artifact_kind: str = Field(max_length=40)
    files: tuple[ArtifactFile, ...] = Field(min_length=1)


class CheckpointMessage(Said):
    """Files below `WORKDIR/out` from which another run can go on; whoever takes them removes them.

    `step` is the step of the recipe, from 0, that has `finished` or that has kept its state.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=0, le=31)
    finished: bool
    files: tuple[ArtifactFile, ...] = Field(min_length=1, max_length=16)


class ModelInspected(Said):
    """The answer to `InspectModel`."""

    kind: Literal["model_inspected"] = "model_inspected"
    description: ModelDescription


class DatasetInspected(Said):
    """The answer to `InspectDataset`."""

    kind: Literal["dataset_inspected"] = "dataset_inspected"
    description: DatasetDescription


class JobDone(Said):
    """The answer to `RunJob`; the last message of a run."""

    kind: Literal["job_done"] = "job_done"
    verdict: Verdict


class ErrorMessage(Said):
    """The runner could not do what was asked; `code` is one of `core.errors.CATALOGUE`."""

    kind: Literal["error"] = "error"
    code: str = Field(max_length=60)
    detail: str = Field(max_length=4000)
    hint: str | None = Field(None, max_length=1000)
    node: str | None = Field(None, max_length=500)
    layer: str | None = Field(None, max_length=500)
    step: str | None = Field(None, max_length=100)
    retryable: bool = False


Message = Annotated[
    ProgressMessage
    | StepMessage
    | MetricMessage
    | LogMessage
    | ArtifactMessage
    | CheckpointMessage
    | ModelInspected
    | DatasetInspected
    | JobDone
    | ErrorMessage,
    Field(discriminator="kind"),
]

REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
