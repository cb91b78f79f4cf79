"""Keys, methods and the system as users see them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from core.resources.shape import Resource, Shown
from core.specs.base import Asked, Family, Needs

Scope = Literal["read", "models:write", "jobs:write", "webhooks", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "models:write", "jobs:write", "webhooks", "admin")


class KeyCreate(Asked):
    """What `POST /v1/keys` takes."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    scopes: tuple[Scope, ...] = Field(("read", "models:write", "jobs:write", "webhooks"), min_length=1)
    expires_at: datetime | None = None


class Key(Resource):
    """An API key without its secret."""

    object: Literal["key"] = "key"
    name: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyWithSecret(Key):
    """A new key; `token` is the whole `mp_…` text and is shown once."""

    token: str


class Method(Shown):
    """One way to compress, with the JSON Schema of its spec."""

    object: Literal["method"] = "method"
    name: str
    title: str
    family: Family
    summary: str
    needs: Needs
    json_schema: dict[str, JsonValue]
    defaults: dict[str, JsonValue]
    example: dict[str, JsonValue]


class MethodList(Shown):
    """Every method there is."""

    data: tuple[Method, ...]


class Worker(Shown):
    """A process that is alive."""

    id: str
    kind: str
    host: str
    pid: int
    sandbox: str
    busy_with: str | None
    heartbeat_at: datetime
    runtimes: dict[str, str] = Field({}, description="Versions of the runtimes that it can measure in.")


class Host(Shown):
    """The machine that answers."""

    cores: int
    cpu: str
    flags: tuple[str, ...]
    gpus: tuple[str, ...]
    memory_bytes: int


class System(Shown):
    """Version, workers, queues and host."""

    object: Literal["system"] = "system"
    version: str
    sandbox: str
    workers: tuple[Worker, ...]
    queues: dict[str, int]
    jobs: dict[str, int]
    host: Host
    runtimes: dict[str, str]
