"""Blobs: bytes at rest, named by their SHA-256, in a folder or in S3 with the same code."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from core.errors import ModelpressError

if TYPE_CHECKING:
    # These exist for the type checker only.
    from obstore import GetOptions, GetResult

CHUNK_BYTES = 1 << 20
_PART_BYTES = 5 << 20
# Parts in flight times their size is what an upload costs in memory.
_PARTS = 4
# S3 copies no more than 5 GiB in one call.
COPY_LIMIT = 5 << 30


# Uploads and artifacts; and what only workers read, for a while.
Area = Literal["blobs", "checkpoints"]


@final
class Blobs:
    """Immutable bytes under `<area>/<first two digits>/<sha256>`; a blob is there whole or not at all."""

    def __init__(self, store: ObjectStore, folder: Path | None, area: Area = "blobs") -> None:
        """`folder` is where a local store lies: its files are flushed to the disk before they count as stored."""
        self._store = store
        self._folder = folder
        self._area = area

    def of_area(self, area: Area) -> "Blobs":
        """The blobs of another area of the same store; what is deleted in one stays in the others."""
        return Blobs(self._store, self._folder, area)

    def put_file(self, path: Path, sha256: str) -> None:
        """Stores a file whose SHA-256 the caller has computed; raises `no_space` or `unavailable`."""
        if self.exists(sha256):
            return
        with _translated():
            obstore.put(self._store, self._key(sha256), path, chunk_size=_PART_BYTES, max_concurrency=_PARTS)
        self._flush(sha256)

    async def put_stream(
        self, chunks: AsyncIterator[bytes], *, limit: int, expected_sha256: str | None = None
    ) -> tuple[str, int]:
        """Stores bytes as they come; gives their SHA-256 and number.

        Raises `too_large` above `limit` bytes, `digest_mismatch`, `no_space` or `unavailable`; none of them, nor a
        sender that goes away, leaves anything behind.
        """
        digest, temporary = _Digest(chunks, limit, expected_sha256), f"incoming/{uuid4().hex}"
        with _translated():
            await obstore.put_async(
                self._store,
                temporary,
                digest.checked(),
                use_multipart=True,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS,
            )
            await self._move(temporary, self._key(digest.hexdigest), digest.size)
        await asyncio.to_thread(self._flush, digest.hexdigest)
        return digest.hexdigest, digest.size

    def get(self, sha256: str, part: tuple[int, int] | None = None) -> Iterator[bytes]:
        """The bytes, or those from the first to the last position of `part`, both included.

        Raises `unavailable` at once when there is no such blob.
        """
        options: GetOptions = {} if part is None else {"range": (part[0], part[1] + 1)}
        with _translated():
            found = obstore.get(self._store, self._key(sha256), options=options)
        return _stream(found)

    def fetch(self, sha256: str, to: Path) -> None:
        """Copies a blob to a file; raises `unavailable` when the bytes are not those of their name."""
        digest = new_sha256()
        with to.open("wb") as file:
            for chunk in self.get(sha256):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            to.unlink()
            raise ModelpressError("unavailable", f"The stored bytes of {sha256} are damaged.")

    def size(self, sha256: str) -> int:
        """The number of bytes; raises `unavailable` when there is no such blob."""
        with _translated():
            return int(obstore.head(self._store, self._key(sha256))["size"])

    def exists(self, sha256: str) -> bool:
        """Whether the blob is there."""
        with _translated():
            try:
                obstore.head(self._store, self._key(sha256))
            except FileNotFoundError:
                return False
        return True

    def delete(self, sha256: str) -> None:
        """Removes a blob; one that is not there is no error."""
        with _translated(), suppress(FileNotFoundError):
            obstore.delete(self._store, self._key(sha256))

    async def _move(self, source: str, target: str, size: int) -> None:
        if self._folder is not None or size <= COPY_LIMIT:
            await obstore.rename_async(self._store, source, target)
            return
        await obstore.put_async(
            self._store, target, await obstore.get_async(self._store, source), chunk_size=_PART_BYTES
        )
        await obstore.delete_async(self._store, source)

    def _key(self, sha256: str) -> str:
        return f"{self._area}/{sha256[:2]}/{sha256}"

    def _flush(self, sha256: str) -> None:
        if self._folder is None:
            return
        path = self._folder / self._key(sha256)
        for entry in (path, path.parent):
            descriptor = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@lru_cache(maxsize=8)
def open_blobs(url: str) -> Blobs:
    """The blobs at `file:///folder` or `s3://bucket/prefix` (credentials and endpoint as AWS_* variables)."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        folder = Path(unquote(parts.path))
        return Blobs(LocalStore(folder, mkdir=True), folder)
    if parts.scheme == "s3" and parts.netloc:
        return Blobs(S3Store(parts.netloc, prefix=parts.path.strip("/") or None), None)
    raise ValueError(f"STORAGE_URL must be file:///folder or s3://bucket/prefix, not {parts.scheme}://…")


@final
class _Digest:
    """Counts and hashes a stream on its way, and breaks it off where it may not be stored."""

    def __init__(self, chunks: AsyncIterator[bytes], limit: int, expected: str | None) -> None:
        self._chunks = chunks
        self._limit = limit
        self._expected = expected
        self._sha256 = new_sha256()
        self.size = 0

    @property
    def hexdigest(self) -> str:
        return self._sha256.hexdigest()

    async def checked(self) -> AsyncIterator[bytes]:
        """The same bytes. The digest is judged before the stream ends, so that a wrong one is never stored."""
        async for chunk in self._chunks:
            self.size += len(chunk)
            if self.size > self._limit:
                raise ModelpressError("too_large", f"At most {self._limit} bytes are allowed.")
            self._sha256.update(chunk)
            if chunk:
                yield chunk
        if self._expected is not None and self._expected != self.hexdigest:
            raise ModelpressError("digest_mismatch", f"The bytes received have the SHA-256 {self.hexdigest}.")


def _stream(found: "GetResult") -> Iterator[bytes]:
    with _translated():
        for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)


@contextmanager
def _translated() -> Iterator[None]:
    """Turns faults of the store into errors with a code."""
    try:
        yield
    except FileNotFoundError as error:
        raise ModelpressError("unavailable", "The bytes are missing from the storage.") from error
    except (BaseError, OSError) as error:
        if "No space left on device" in str(error):
            raise ModelpressError("no_space", "The storage is full.", retryable=True) from error
        raise ModelpressError("unavailable", "The storage does not answer.", retryable=True) from error
