"""A small client of the HTTP API: one method a request, resources in and out."""

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx2
from pydantic import BaseModel

from core.resources.job import Artifact, DryRun, Job, JobCreate, StreamEvent
from core.resources.model import Dataset, DatasetCreate, Model, ModelCreate, Upload
from core.resources.shape import Page
from core.resources.system import Key, KeyCreate, KeyWithSecret, MethodList, System
from core.resources.webhook import Delivery, Webhook, WebhookCreate, WebhookWithSecret
from core.states import TERMINAL, InspectionState
from modelpress.connection import Connection, Request, UnreachableError
from modelpress.download import download

_CHUNK = 1 << 20
Progress = Callable[[int], None]
Shape = TypeVar("Shape", bound=BaseModel)
Subject = TypeVar("Subject", Model, Dataset)


class Client:
    """Talks to one service with one key; raises `ApiError` and `UnreachableError`."""

    def __init__(self, url: str, key: str) -> None:
        self._connection = Connection(url, key)
        self.url = self._connection.url

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def upload(self, path: Path, name: str | None = None, progress: Progress = lambda _: None) -> Upload:
        """Send a file with its digest; the service refuses it when a byte was lost.

        `name` is told instead of the file's own; `progress` hears how many bytes have been sent.
        """
        with path.open("rb") as file:
            digest = base64.b64encode(hashlib.file_digest(file, "sha256").digest()).decode()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
            "Repr-Digest": f"sha-256=:{digest}:",
            "Idempotency-Key": str(uuid.uuid4()),
        }
        params = {"filename": name or path.name}
        return self._ask(Upload, Request("POST", "/v1/uploads", params, headers, lambda: _chunks(path, progress)))

    def create_model(self, asked: ModelCreate) -> Model:
        """Make a model of an upload; it is inspected in the background."""
        return self._post(Model, "/v1/models", asked)

    def create_dataset(self, asked: DatasetCreate) -> Dataset:
        """Make a data set of uploads; it is inspected in the background."""
        return self._post(Dataset, "/v1/datasets", asked)

    def model(self, identifier: str) -> Model:
        """Read a model."""
        return self._get(Model, f"/v1/models/{identifier}")

    def dataset(self, identifier: str) -> Dataset:
        """Read a data set."""
        return self._get(Dataset, f"/v1/datasets/{identifier}")

    def inspected(self, subject: Subject) -> Subject:
        """Wait until the inspection of a model or data set has ended."""
        path = f"/v1/{subject.object}s/{subject.id}"
        while subject.state == InspectionState.INSPECTING:
            time.sleep(0.1)
            subject = self._get(type(subject), path)
        return subject

    def create_job(self, asked: JobCreate) -> Job:
        """Queue a job."""
        return self._post(Job, "/v1/jobs", asked)

    def plan_job(self, asked: JobCreate) -> DryRun:
        """Ask what a job would do; nothing is queued."""
        return self._post(DryRun, "/v1/jobs?dry_run=true", asked)

    def job(self, identifier: str) -> Job:
        """Read a job."""
        return self._get(Job, f"/v1/jobs/{identifier}")

    def cancel(self, identifier: str) -> Job:
        """Stop a job and keep nothing of it."""
        return self._post(Job, f"/v1/jobs/{identifier}/cancel")

    def follow(self, identifier: str) -> Iterator[StreamEvent]:
        """The events of a job from its first to its last; goes on after a lost connection."""
        seen = 0
        while True:
            try:
                for event in self._events(identifier, seen):
                    seen = event.seq
                    yield event
                if self.job(identifier).state in TERMINAL:
                    return
            except UnreachableError:
                time.sleep(1)
                self.job(identifier)

    def download(self, artifact: Artifact, folder: Path) -> list[Path]:
        """Fetch the files of an artifact into a folder, checked against their digests; raises `WrongBytesError`."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        with self._connection.stream(f"/v1/artifacts/{artifact.id}/content", headers) as answer:
            return download(artifact, answer.iter_bytes(_CHUNK), folder)

    def artifact(self, identifier: str) -> Artifact:
        """Read what is known of an artifact."""
        return self._get(Artifact, f"/v1/artifacts/{identifier}")

    def methods(self) -> MethodList:
        """Every method that the service has."""
        return self._get(MethodList, "/v1/methods")

    def system(self) -> System:
        """Version, workers, queues and host."""
        return self._get(System, "/v1/system")

    def keys(self) -> Page[Key]:
        """The newest keys, without their secrets."""
        return self._get(Page[Key], "/v1/keys?limit=100")

    def create_key(self, asked: KeyCreate) -> KeyWithSecret:
        """Make a key; its token is shown this once."""
        return self._post(KeyWithSecret, "/v1/keys", asked)

    def revoke_key(self, identifier: str) -> None:
        """End a key."""
        self._connection.send(Request("DELETE", f"/v1/keys/{identifier}"))

    def create_webhook(self, asked: WebhookCreate) -> WebhookWithSecret:
        """Make a webhook endpoint; its secret is shown this once."""
        return self._post(WebhookWithSecret, "/v1/webhooks", asked)

    def webhooks(self) -> Page[Webhook]:
        """The newest endpoints."""
        return self._get(Page[Webhook], "/v1/webhooks?limit=100")

    def delete_webhook(self, identifier: str) -> None:
        """End an endpoint."""
        self._connection.send(Request("DELETE", f"/v1/webhooks/{identifier}"))

    def deliveries(self, webhook: str) -> Page[Delivery]:
        """The newest deliveries of an endpoint."""
        return self._get(Page[Delivery], f"/v1/webhooks/{webhook}/deliveries")

    def _get(self, shape: type[Shape], path: str) -> Shape:
        return self._ask(shape, Request("GET", path))

    def _post(self, shape: type[Shape], path: str, asked: BaseModel | None = None) -> Shape:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        if asked is None:
            return self._ask(shape, Request("POST", path, headers=headers))
        headers["Content-Type"] = "application/json"
        text = asked.model_dump_json(exclude_unset=True).encode()
        return self._ask(shape, Request("POST", path, headers=headers, body=lambda: iter([text])))

    def _ask(self, shape: type[Shape], request: Request) -> Shape:
        return shape.model_validate_json(self._connection.send(request))

    def _events(self, identifier: str, after: int) -> Iterator[StreamEvent]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
        with self._connection.stream(f"/v1/jobs/{identifier}/events", headers) as answer:
            for event in httpx2.EventSource(answer):
                if event.data:
                    yield StreamEvent.model_validate_json(event.data)


def _chunks(path: Path, progress: Progress) -> Iterator[bytes]:
    sent = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            sent += len(chunk)
            progress(sent)
