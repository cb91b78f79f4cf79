"""Sending an artifact: one file with a single byte range, or a zip of several."""

import re
from collections.abc import Iterator
from urllib.parse import quote
from zipfile import ZipFile, ZipInfo

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from api.errors import answer
from core.errors import ModelpressError
from core.resources.job import Artifact
from core.storage.blobs import Blobs

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
# A download that a browser is made to show runs in an opaque origin.
_POLICY = "sandbox; default-src 'none'"


def send(request: Request, artifact: Artifact, blobs: Blobs) -> Response:
    """The bytes of the artifact as an attachment; honours If-None-Match, If-Range and a single Range."""
    tag = f'"{artifact.sha256}"'
    headers = {
        "ETag": tag,
        "Content-Disposition": disposition(artifact.filename),
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "private, no-cache",
    }
    if tag in [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if len(artifact.files) == 1:
        return _send_file(request, artifact, blobs, headers)
    content = zipped(artifact, blobs) if request.method == "GET" else iter(())
    return StreamingResponse(content, media_type="application/zip", headers=headers)


def _send_file(request: Request, artifact: Artifact, blobs: Blobs, headers: dict[str, str]) -> Response:
    size = artifact.files[0].bytes
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
    content = blobs.get(artifact.files[0].sha256, part) if request.method == "GET" else iter(())
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


def zipped(artifact: Artifact, blobs: Blobs) -> Iterator[bytes]:
    """A stored zip of the artifact's files; the same files give the same bytes."""
    sink = _Sink()
    with ZipFile(sink, "w") as archive:
        for file in artifact.files:
            entry = ZipInfo(file.filename, _ZIP_EPOCH)
            entry.file_size = file.bytes
            with archive.open(entry, "w") as target:
                for chunk in blobs.get(file.sha256, None):
                    target.write(chunk)
                    yield sink.take()
    yield sink.take()
