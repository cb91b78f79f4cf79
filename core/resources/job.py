"""Jobs, their steps, metrics and artifacts as users see them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from core.resources.shape import Failure, Metadata, Resource, Shown
from core.specs.base import Asked
from core.specs.recipe import Constraints, Limits, Recipe, Target
from core.states import JobState, StepState
from core.verdict import Verdict


class JobCreate(Asked):
    """What `POST /v1/jobs` takes, and what a `recipe.yaml` holds."""

    model: str
    dataset: str | None = None
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    metadata: Metadata = Field(default_factory=dict)
    seed: int = Field(0, ge=0, lt=2**63)
    webhook_url: str | None = Field(None, max_length=2000)
    plan: str | None = Field(
        None, description="The id of a `plan.json` artifact, whose decisions are followed to the same bytes."
    )
    recipe: Recipe
    target: Target = Target()
    constraints: Constraints = Constraints()
    limits: Limits = Limits()


class Progress(Shown):
    """How far a running job is; `fraction` and `eta_seconds` are of the whole job, the others of the step that runs."""

    step: int | None
    method: str
    fraction: float
    eta_seconds: float | None
    step_fraction: float | None = None
    step_eta_seconds: float | None = None
    message: str


class Step(Shown):
    """One step of a job: prepare, the steps of the recipe, export and measure."""

    id: str
    object: Literal["step"] = "step"
    position: int
    name: str
    state: StepState
    seconds: float | None
    message: str
    quality: float | None


class ArtifactFile(Shown):
    """One file of an artifact."""

    filename: str
    sha256: str
    bytes: int


class Artifact(Resource):
    """What a job made: a manifest of one or more files."""

    object: Literal["artifact"] = "artifact"
    job: str
    kind: str
    filename: str
    sha256: str
    bytes: int
    files: tuple[ArtifactFile, ...]
    content_url: str


class JobHeadline(Shown):
    """The numbers of a finished job that a list shows."""

    satisfied: bool
    sentence: str
    size_ratio: float
    speedup: float | None
    speedup_significant: bool
    quality_metric: str | None
    quality_before: float | None
    quality_after: float | None


class JobSummary(Resource):
    """A job in a list."""

    object: Literal["job"] = "job"
    name: str
    metadata: Metadata
    state: JobState
    model: str
    model_name: str
    dataset: str | None
    dataset_name: str | None
    methods: tuple[str, ...]
    progress: Progress | None = None
    queue_position: int | None = None
    headline: JobHeadline | None = None
    error: Failure | None = None
    started_at: datetime | None
    finished_at: datetime | None


class Job(JobSummary):
    """A job with everything but its metrics, its log and the bytes of its artifacts."""

    seed: int
    recipe: Recipe
    target: Target
    constraints: Constraints
    limits: Limits
    attempt: int
    worker_losses: int
    retry_of: str | None
    plan: str | None = None
    cancel_requested: bool
    webhook_url: str | None
    steps: tuple[Step, ...]
    verdict: Verdict | None
    artifacts: tuple[Artifact, ...]


class Range(Shown):
    """An estimate with its lower and upper end."""

    low: float
    high: float


class Objection(Shown):
    """Something that speaks against a job: where, why, and a JSON patch (RFC 6902) that mends it."""

    pointer: str
    severity: Literal["blocks", "advice"]
    code: str
    text: str
    repair: tuple[dict[str, JsonValue], ...] | None = None


class PlannedStep(Shown):
    """One step that the job would run, and the layers that it would touch."""

    name: str
    layers: tuple[str, ...] = ()


class DryRun(Shown):
    """The answer to `POST /v1/jobs?dry_run=true`: nothing is queued."""

    ok: bool
    plan: tuple[PlannedStep, ...]
    seconds: Range
    memory_bytes: Range
    bytes: Range
    objections: tuple[Objection, ...]


class MetricPoint(Shown):
    """One measured number."""

    name: str
    value: float
    unit: str
    split: str | None
    subject: str
    step: str | None
    at: float | None
    conditions: dict[str, JsonValue]
    created_at: datetime


class MetricSeries(Shown):
    """The metrics of a job, oldest first."""

    data: tuple[MetricPoint, ...]


class StreamEvent(Shown):
    """One server-sent event of a job: `job.state`, `job.progress`, `metric` or `log`, numbered per job."""

    seq: int
    type: str
    payload: dict[str, JsonValue]
    created_at: datetime
