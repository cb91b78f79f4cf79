"""Which samples of one split are also in another, by the hash of their contents."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from core.data.columns import CHUNK_ROWS, Rows
from core.data.splits import Split
from core.description import SplitName, Twin

DIGEST_BYTES = 8


def find_copies(split: Split, others: Mapping[SplitName, Split], most: int) -> tuple[int, tuple[Twin, ...]]:
    """How many samples of `split` have the same contents as one of `others`, and the first `most` with their rows.

    Holds sixteen bytes a sample of `split`.
    """
    rows = np.sort(split.rows)
    digests = np.concatenate([found for _, found in _digests(split, rows)] or [np.empty(0, np.uint64)])
    order = np.argsort(digests, kind="stable")
    ordered, found = digests[order], np.zeros(len(rows), bool)
    twins: list[Twin] = []
    for name, other in others.items():
        for part, hashes in _digests(other, np.sort(other.rows)):
            first, last = (np.searchsorted(ordered, hashes, side) for side in ("left", "right"))
            for place in np.flatnonzero(last > first).tolist():
                same = order[first[place] : last[place]]
                new = same[~found[same]]
                found[new] = True
                twins += [
                    Twin(row=int(rows[each]), split=name, other_row=int(part[place]))
                    for each in new[: most - len(twins)]
                ]
    return int(found.sum()), tuple(twins)


def _digests(split: Split, rows: Rows) -> Iterator[tuple[Rows, NDArray[np.uint64]]]:
    for start in range(0, len(rows), CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS]
        digests = b"".join(
            hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest() for content in split.samples.contents(part)
        )
        yield part, np.frombuffer(digests, np.uint64)
