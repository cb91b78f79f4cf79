"""Receiving a file: the raw body goes to storage as it comes, and is never held whole."""

import base64
import binascii
import re

from fastapi import Request

from core.errors import ModelpressError
from core.settings import settings
from core.storage.blobs import Blobs

_SHA256_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):\s*(?:,|$)")


async def receive(request: Request, blobs: Blobs) -> tuple[str, int]:
    """Store the body; its SHA-256 as hexadecimal digits, and its size in bytes.

    Raises `too_large` or `digest_mismatch`, and then keeps nothing, or `invalid_request`.
    """
    limit = settings().max_upload_bytes
    expected = parse_digest(request.headers.get("repr-digest"))
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ModelpressError("invalid_request", "Content-Encoding is not supported; send the plain bytes.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise ModelpressError("too_large", f"The body has {declared} bytes; at most {limit} are allowed.")
    sha256, size = await blobs.put_stream(request.stream(), limit=limit, expected_sha256=expected)
    if size == 0:
        raise ModelpressError("invalid_request", "The body is empty; send the bytes of the file.")
    return sha256, size


def parse_digest(header: str | None) -> str | None:
    """The SHA-256 in a Repr-Digest header (RFC 9530), as hexadecimal digits; None without the header."""
    if header is None:
        return None
    match = _SHA256_DIGEST.search(header)
    try:
        digest = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise ModelpressError(
            "invalid_request", "Repr-Digest must look like `sha-256=:<base64>:`.", pointer="/header/repr-digest"
        )
    return digest.hex()
