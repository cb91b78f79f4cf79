"""What every resource has in common, and a page of a list."""

from datetime import datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")


class Shown(BaseModel):
    """Base of what the API, a webhook and the CLI show: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Resource(Shown):
    """An object with an id, a kind and a time of birth."""

    id: str
    created_at: datetime


class Page(Shown, Generic[Item]):
    """One page of a list, newest first; `next` is the id to pass as `after`."""

    data: tuple[Item, ...]
    has_more: bool
    next: str | None = None


class Problem(Shown):
    """An error as `application/problem+json` (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    pointer: str | None = None
    hint: str | None = None
    request_id: str


class Failure(Shown):
    """Why a model, data set or job ended badly."""

    code: str
    detail: str
    hint: str | None = None
    node: str | None = None
    layer: str | None = None
    step: str | None = None
    retryable: bool = False


Metadata = dict[str, str]
Name = str
NAME_FIELD = Field(min_length=1, max_length=200)
