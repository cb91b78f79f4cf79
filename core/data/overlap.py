"""Whether samples of one split are also in another, by the hash of their contents."""

import hashlib
from collections.abc import Iterator, Sequence

from core.data.splits import Split

DIGEST_BYTES = 12


def count_overlap(split: Split, others: Sequence[Split]) -> int:
    """How many samples of `split` have the same contents as one of `others`."""
    wanted: dict[bytes, int] = {}
    for digest in _digests(split):
        wanted[digest] = wanted.get(digest, 0) + 1
    found = 0
    for other in others:
        for digest in _digests(other):
            found += wanted.pop(digest, 0)
    return found


def _digests(split: Split) -> Iterator[bytes]:
    for content in split.samples.contents(split.rows):
        yield hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
