"""The query parameters of lists; an unknown one is an error, as an unknown field of a body is."""

from pydantic import BaseModel, ConfigDict, Field

from core.states import DeliveryState, InspectionState, JobState


class Paging(BaseModel):
    """Which page of a list, newest first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200, description="Objects on the page.")
    after: str | None = Field(None, max_length=64, description="The `next` of the page before.")


class InspectedPaging(Paging):
    """A page of models or data sets."""

    state: InspectionState | None = Field(None, description="Only those in this state.")


class JobPaging(Paging):
    """A page of jobs."""

    state: JobState | None = Field(None, description="Only those in this state.")
    model: str | None = Field(None, max_length=64, description="Only those of this model.")


class EventPaging(Paging):
    """A page of events."""

    subject: str | None = Field(None, max_length=64, description="Only those about the object of this id.")


class DeliveryPaging(Paging):
    """A page of deliveries."""

    state: DeliveryState | None = Field(None, description="Only those in this state.")


class MetricQuery(BaseModel):
    """Which metrics of a job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(None, max_length=200, description="Only metrics of this name.")
    split: str | None = Field(None, max_length=200, description="Only metrics of this split.")


class JobQuery(BaseModel):
    """How a job is asked for; a misspelt `dry_run` must not queue one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dry_run: bool = Field(False, description="Answer 200 with plan, estimates and objections; nothing is queued.")


class UploadQuery(BaseModel):
    """What an upload is called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: str = Field(
        min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f/\\]+$", description="A label, never a path."
    )
