"""Sending what is made of files: one file with a single byte range, or a zip of several."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote
from zipfile import ZipFile, ZipInfo

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from api.errors import answer
from core.errors import ModelpressError
from core.storage.blobs import Blobs

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
# A download that a browser is made to show runs in an opaque origin.
_POLICY = "sandbox; default-src 'none'"


class StoredFile(Protocol):
    """One file: a name, and the bytes kept under their SHA-256."""

    @property
    def filename(self) -> str:
        """As the user named it, or the job."""

    @property
    def sha256(self) -> str:
        """Where the bytes are kept."""

    @property
    def bytes(self) -> int:
        """How many there are."""


class Manifest(Protocol):
    """Files that are sent together: an artifact, or an uploaded model."""

    @property
    def filename(self) -> str:
        """The name to save it under."""

    @property
    def sha256(self) -> str:
        """The digest of the file, or of the digests of several."""

    @property
    def files(self) -> Sequence[StoredFile]:
        """At least one."""


@dataclass(frozen=True, slots=True)
class Single:
    """One file of several, sent alone."""

    filename: str
    sha256: str
    files: tuple[StoredFile, ...]


def pick(manifest: Manifest, filename: str) -> Single:
    """The file of that name; raises `not_found`."""
    for file in manifest.files:
        if file.filename == filename:
            return Single(file.filename, file.sha256, (file,))
    raise ModelpressError("not_found", f"There is no file {filename[:200]!r} in it.")


CONTENT: dict[str, Any] = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {**CONTENT, "description": "The file, or a zip of several. ETag is the SHA-256."},
    206: {**CONTENT, "description": "The byte range asked for."},
    304: {"description": "If-None-Match names these bytes."},
}


def send(request: Request, manifest: Manifest, blobs: Blobs) -> Response:
    """The bytes as an attachment; honours If-None-Match, If-Range and a single Range."""
    tag = f'"{manifest.sha256}"'
    headers = {
        "ETag": tag,
        "Content-Disposition": disposition(_sent_name(manifest)),
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "private, no-cache",
    }
    if tag in [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if len(manifest.files) == 1:
        return _send_file(request, manifest, blobs, headers)
    content = zipped(manifest, blobs) if request.method == "GET" else iter(())
    return StreamingResponse(content, media_type="application/zip", headers=headers)


def _sent_name(manifest: Manifest) -> str:
    """The name of the file, which ends in `.zip` if it is one of our zips."""
    zipped_here = len(manifest.files) > 1 and not manifest.filename.endswith(".zip")
    return f"{manifest.filename}.zip" if zipped_here else manifest.filename


def _send_file(request: Request, manifest: Manifest, blobs: Blobs, headers: dict[str, str]) -> Response:
    size = manifest.files[0].bytes
    asked = request.headers.get("range")
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        asked = None
    try:
        part = parse_range(asked, size) if request.method == "GET" else None
    except ModelpressError as error:
        return answer(request, error, headers={"Content-Range": f"bytes */{size}"})
    headers["Accept-Ranges"] = "bytes"
    first, last = part or (0, size - 1)
    headers["Content-Length"] = str(last - first + 1)
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    content = blobs.get(manifest.files[0].sha256, part) if request.method == "GET" else iter(())
    status = 206 if part else 200
    return StreamingResponse(content, status, media_type="application/octet-stream", headers=headers)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range; None where the header is absent or to be ignored (RFC 9110 §14.2).

    Several ranges at once are ignored, since they are what makes ranges dangerous. Raises `range_not_satisfiable`.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first, last = int(match[1]), int(match[2] or size - 1)
        if match[2] and last < first:
            return None
    else:
        first, last = max(size - int(match[2]), 0), size - 1
    if first >= size or (not match[1] and int(match[2]) == 0):
        raise ModelpressError("range_not_satisfiable", f"The file has {size} bytes.")
    return first, min(last, size - 1)


def disposition(filename: str) -> str:
    """An attachment under that name (RFC 6266); what is not plain ASCII only in the encoded form."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


class _Sink:
    """Where `ZipFile` writes: bytes that are taken away again, so that none pile up."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        """Keep the bytes until they are taken."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing to do; `ZipFile` asks for it."""

    def close(self) -> None:
        """Nothing to do either."""

    def take(self) -> bytes:
        """All bytes since the last time."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def zipped(manifest: Manifest, blobs: Blobs) -> Iterator[bytes]:
    """A stored zip of the files; the same files give the same bytes."""
    sink = _Sink()
    with ZipFile(sink, "w") as archive:
        for file in manifest.files:
            entry = ZipInfo(file.filename, _ZIP_EPOCH)
            entry.file_size = file.bytes
            with archive.open(entry, "w") as target:
                for chunk in blobs.get(file.sha256, None):
                    target.write(chunk)
                    yield sink.take()
    yield sink.take()
