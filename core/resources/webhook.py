"""Webhook endpoints, deliveries and events as users see them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from core.resources.shape import Metadata, Resource, Shown
from core.specs.base import Asked
from core.states import DeliveryState

EVENT_TYPES = (
    "model.ready",
    "model.rejected",
    "dataset.ready",
    "dataset.rejected",
    "job.running",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
)


class WebhookCreate(Asked):
    """What `POST /v1/webhooks` takes; events are names or patterns such as `job.*`."""

    url: str = Field(max_length=2000)
    events: tuple[Annotated[str, Field(pattern=r"^(\*|[a-z]+\.(\*|[a-z]+))$")], ...] = ("*",)
    name: Annotated[str, Field(max_length=200)] = ""
    metadata: Metadata = Field(default_factory=dict)


class Webhook(Resource):
    """An endpoint; its secret is shown once, when it is made or rotated."""

    object: Literal["webhook"] = "webhook"
    name: str
    metadata: Metadata
    url: str
    events: tuple[str, ...]
    job: str | None
    disabled_at: datetime | None
    disabled_reason: str | None


class WebhookWithSecret(Webhook):
    """An endpoint with the secret that signs its deliveries."""

    secret: str


class DeliveryTry(Shown):
    """One try of a delivery and what came back."""

    at: datetime
    status: int | None
    answer: str
    error: str | None
    milliseconds: float


class Delivery(Resource):
    """One event on its way to one endpoint."""

    object: Literal["delivery"] = "delivery"
    webhook: str
    event: str
    type: str
    subject: str
    state: DeliveryState
    body: str
    tries: tuple[DeliveryTry, ...]
    next_attempt_at: datetime | None
    delivered_at: datetime | None


class Event(Resource):
    """What happened, as a webhook would have told it."""

    object: Literal["event"] = "event"
    type: str
    timestamp: datetime
    data: dict[str, JsonValue]
