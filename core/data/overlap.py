"""Whether samples of one split are also in another, by the hash of their bytes."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from core.data.npz import Array
from core.data.splits import Rows

DIGEST_BYTES = 12
CHUNK_ROWS = 4096


def count_overlap(samples: tuple[Array, Rows], others: Sequence[tuple[Array, Rows]]) -> int:
    """How many of `samples` have the same bytes as one of `others`; pairs of an array and its rows."""
    wanted: dict[bytes, int] = {}
    for digest in _digests(*samples):
        wanted[digest] = wanted.get(digest, 0) + 1
    found = 0
    for array, rows in others:
        for digest in _digests(array, rows):
            found += wanted.pop(digest, 0)
    return found


def _digests(array: Array, rows: Rows) -> Iterator[bytes]:
    for start in range(0, len(rows), CHUNK_ROWS):
        for row in np.ascontiguousarray(array[rows[start : start + CHUNK_ROWS]]):
            yield hashlib.blake2b(row.tobytes(), digest_size=DIGEST_BYTES).digest()
