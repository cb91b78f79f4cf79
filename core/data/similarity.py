"""Samples of the evaluation split that are nearly the same as one of another split: cheap hashes, then a comparison."""

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from core.data.cells import Cells
from core.data.columns import Column, Rows, WindowColumn
from core.data.dataset import Dataset
from core.data.splits import Split
from core.data.tokens import TokenColumn, UncutTexts
from core.data.transform import Transform
from core.description import SplitName, Twin

# Long texts are compared in pieces of so many characters.
PIECE_CHARACTERS = 4096
MOST_TWINS = 100
# At most so many samples of evaluation, and of each other split, are compared.
MOST = 20_000
CHUNK = 128
THUMBNAIL = 16
# Of samples that share a key so many are compared.
MOST_ALIKE = 200
NO_KEY = np.uint64(2**64 - 1)
# Mean difference of two thumbnails, as a share of the range of all values, above which they are no twins.
ALIKE = 0.02
# Little tells two pictures of a few strokes apart. So a twin must also be nearer than this share of the distance to
# the neighbour after so many (a picture may be stored a few times), or as near as this share of its own contrast.
NEIGHBOURS, NEARER = 4, 1 / 3
SURELY_ALIKE = 0.03
SHINGLE_WORDS = 3
PERMUTATIONS, BAND = 16, 4
# Equal minima of MinHash from which two texts are nearly the same: a Jaccard index of about 0.8.
ALIKE_MINIMA = 13
PASSAGE_TOKENS = 32
MOST_TOKENS = 1 << 22
CHUNK_TOKENS = 1 << 15
SALT = np.random.default_rng(20).integers(1, 2**63, (2, PERMUTATIONS), dtype=np.uint64) | np.uint64(1)
WEIGHTS = np.random.default_rng(21).integers(1, 2**63, PASSAGE_TOKENS, dtype=np.uint64) | np.uint64(1)

Keys = NDArray[np.uint64]
Signature = NDArray[Any]
Signed = tuple[Rows, Keys, Signature]
Others = Iterator[tuple[SplitName, Signed]]


@dataclass(frozen=True, slots=True)
class Similar:
    """How many of so many evaluation samples have a near twin in another split, and by what that was found."""

    found: int
    compared: int
    method: str
    twins: tuple[Twin, ...] = ()


def count_near_duplicates(dataset: Dataset) -> Similar | None:
    """Near twins of evaluation samples, exact ones included; None for data of which none can be told.

    Images: difference hash (Krawetz 2013), thumbnails. Texts: MinHash over words (Broder 1997). Long texts: passages.
    """
    evaluation = dataset.splits.get("evaluation")
    others: dict[SplitName, Split] = {
        name: split for name, split in dataset.splits.items() if name in ("train", "validation")
    }
    calibration = dataset.splits.get("calibration")
    if calibration is not None and all(calibration.samples is not split.samples for split in others.values()):
        others["calibration"] = calibration
    if evaluation is None or not others:
        return None
    name, column = next(iter(evaluation.samples.columns.items()))
    if isinstance(column, WindowColumn):
        return _count_passages(column, others, name)
    sign: Callable[[Split], Iterator[Signed]]
    if isinstance(column, UncutTexts | TokenColumn):
        count = _count_texts

        def sign(split: Split) -> Iterator[Signed]:
            return _sign_texts(split, name)
    elif dataset.transforms[name].is_image(column.shape):
        count = _count_images

        def sign(split: Split) -> Iterator[Signed]:
            return _sign_images(split, name, dataset.transforms[name])
    else:
        return None
    signed = ((kind, part) for kind, split in others.items() for part in sign(split))
    return count(list(sign(evaluation)), signed)


def _count_texts(wanted: list[Signed], others: Others) -> Similar:
    """Texts that share a key and of which enough minima are equal."""
    places_of, signatures = (np.concatenate([part[place] for part in wanted]) for place in (0, 2))
    # A long text has several signatures.
    rows, number = np.unique(places_of, return_inverse=True)
    found = np.zeros(len(rows), bool)
    twins: list[Twin] = []
    for split, other_row, signature, places in _candidates(wanted, others):
        left = places[~found[number[places]]]
        same = (signatures[left] == signature).sum(axis=1)
        alike = np.unique(number[left[same >= ALIKE_MINIMA]])
        found[alike] = True
        twins += [
            Twin(row=int(rows[each]), split=split, other_row=other_row, exact=False)
            for each in alike[: MOST_TWINS - len(twins)]
        ]
    return Similar(int(found.sum()), len(rows), "MinHash of words", tuple(twins))


def _count_images(wanted: list[Signed], others: Others) -> Similar:
    """Images that share a key and are far more alike than others of the data are (the ratio test of Lowe 2004)."""
    rows, thumbnails = (np.concatenate([part[place] for part in wanted]) for place in (0, 2))
    nearest = np.full((len(rows), NEIGHBOURS), np.inf)
    twin: dict[int, tuple[SplitName, int]] = {}
    for split, other_row, thumbnail, places in _candidates(wanted, others):
        distances = np.abs(thumbnails[places] - thumbnail).mean(axis=1)
        closer = distances < nearest[places, -1]
        near, distances = places[closer], distances[closer]
        twin |= dict.fromkeys(near[distances < nearest[near, 0]].tolist(), (split, other_row))
        nearest[near, -1] = distances
        nearest[near] = np.sort(nearest[near], axis=1)
    contrast = np.abs(thumbnails - thumbnails.mean(axis=1, keepdims=True)).mean(axis=1)
    first, last = nearest[:, 0], nearest[:, -1]
    apart = (first <= NEARER * last) | (first <= SURELY_ALIKE * contrast)
    alike = np.flatnonzero((first <= ALIKE * (float(np.ptp(thumbnails)) or 1.0)) & apart)
    twins = (
        Twin(row=int(rows[place]), split=twin[place][0], other_row=twin[place][1], exact=False)
        for place in alike[:MOST_TWINS].tolist()
    )
    return Similar(len(alike), len(rows), "difference hash and thumbnails", tuple(twins))


def _candidates(wanted: list[Signed], others: Others) -> Iterator[tuple[SplitName, int, Signature, Rows]]:
    """Of each sample of the other splits its row and signature, and the places in `wanted` that share a key with it."""
    groups: dict[int, list[int]] = defaultdict(list)
    for place, row_keys in enumerate(np.concatenate([part[1] for part in wanted]).tolist()):
        for key in row_keys:
            if key != NO_KEY and len(groups[key]) < MOST_ALIKE:
                groups[key].append(place)
    for split, part in others:
        for row, row_keys, signature in zip(part[0].tolist(), part[1].tolist(), part[2], strict=True):
            if places := {place for key in row_keys for place in groups.get(key, ())}:
                yield split, row, signature, np.array(sorted(places), np.int64)


def _chosen(split: Split) -> Iterator[Rows]:
    """Rows spread over a split, in chunks."""
    rows = np.sort(split.rows[:: -(-len(split.rows) // MOST)])
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _sign_images(split: Split, name: str, transform: Transform) -> Iterator[Signed]:
    """Keys of 16 bits, whether each cell is brighter than its left neighbour in two of eight rows; a grey thumbnail.

    Rows of cells without any change say nothing, so they are no key.
    """
    column = split.samples.columns[name]
    for rows in _chosen(split):
        grey = transform.lay_out(column.read(rows)).mean(dim=1, keepdim=True)
        cells = F.adaptive_avg_pool2d(grey, (8, 9)).squeeze(1)
        bits = (cells[:, :, 1:] > cells[:, :, :-1]).flatten(1).numpy()
        bands = np.packbits(bits, axis=1).view(np.uint16).astype(np.uint64)
        flat = bands == 0
        keys = np.where(flat, NO_KEY, bands + (np.arange(bands.shape[1], dtype=np.uint64) << np.uint64(16)))
        yield rows, keys, F.adaptive_avg_pool2d(grey, (THUMBNAIL, THUMBNAIL)).flatten(1).numpy()


def _sign_texts(split: Split, name: str) -> Iterator[Signed]:
    """Keys are bands of the MinHash minima, which are the signature; a row for each piece of a text."""
    column = split.samples.columns[name]
    cells = column.cells if isinstance(column, UncutTexts | TokenColumn) else None
    if cells is None:
        return
    weights = WEIGHTS[:BAND]
    # However long the texts are, no more signatures are held than of short ones.
    most = max(1, MOST // max(len(split.rows), 1))
    for rows in _chosen(split):
        signed = [
            (row, _minima(words))
            for row, text in zip(rows.tolist(), _texts(cells, rows), strict=True)
            for words in _pieces(text, most)
        ]
        minima = np.stack([found for _, found in signed])
        bands = minima.reshape(len(signed), -1, BAND)
        keys = (bands * weights).sum(axis=2, dtype=np.uint64) + np.arange(bands.shape[1], dtype=np.uint64)
        yield np.array([row for row, _ in signed], np.int64), keys, minima


def _texts(cells: Cells, rows: Rows) -> list[str]:
    if cells.kind == "list":
        return [" ".join(map(str, words)) for words in cells.lists(rows)]
    return list(cells.texts(rows))


def _pieces(text: str, most: int) -> Iterator[list[str]]:
    """The words of at most `most` pieces, which are spread over the text."""
    starts = range(0, max(len(text), 1), PIECE_CHARACTERS)
    for start in starts[:: -(-len(starts) // most)]:
        yield re.findall(r"\w+", text[start : start + PIECE_CHARACTERS].lower())


def _minima(words: list[str]) -> NDArray[np.uint64]:
    width = min(SHINGLE_WORDS, max(len(words), 1))
    shingles = {" ".join(words[start : start + width]) for start in range(max(len(words) - width + 1, 1))}
    hashes = np.array([zlib.crc32(shingle.encode()) for shingle in shingles], np.uint64)
    mixed = (hashes[:, None] * SALT[0] + SALT[1]) ^ (hashes[:, None] * SALT[1] >> np.uint64(29))
    least: NDArray[np.uint64] = mixed.min(axis=0)
    return least


def _count_passages(column: WindowColumn, others: Mapping[SplitName, Split], name: str) -> Similar | None:
    """Passages of 32 tokens of the evaluation text that are also in another text; rows are first tokens."""
    texts: list[tuple[SplitName, Column]] = []
    for kind, split in others.items():
        other = split.samples.columns[name]
        known = {id(column.tokens), *(id(text) for _, text in texts)}
        if isinstance(other, WindowColumn) and id(other.tokens) not in known:
            texts.append((kind, other.tokens))
    if not texts or len(column.tokens) < PASSAGE_TOKENS:
        return None
    own = np.concatenate(list(_passages(column.tokens, PASSAGE_TOKENS)))
    # The same passage may come again in the text itself; the first is told.
    hashes, first = np.unique(own, return_index=True)
    found, twins = np.zeros(len(hashes), bool), []
    for kind, text in texts:
        for number, part in enumerate(_passages(text, 1)):
            places = np.searchsorted(hashes, part).clip(max=len(hashes) - 1)
            for at in np.flatnonzero(hashes[places] == part).tolist():
                if not found[places[at]]:
                    found[places[at]] = True
                    row = int(first[places[at]]) * PASSAGE_TOKENS
                    twins.append(Twin(row=row, split=kind, other_row=number * CHUNK_TOKENS + at))
    twins.sort(key=lambda twin: twin.row)
    return Similar(len(twins), len(hashes), f"passages of {PASSAGE_TOKENS} tokens", tuple(twins[:MOST_TWINS]))


def _passages(tokens: Column, step: int) -> Iterator[NDArray[np.uint64]]:
    """Hashes of the passages of a text, beginning at every `step`-th token."""
    for start in range(0, min(len(tokens), MOST_TOKENS) - PASSAGE_TOKENS + 1, CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS + PASSAGE_TOKENS - 1, len(tokens))
        part = tokens.read(np.arange(start, stop, dtype=np.int64)).astype(np.uint64)
        yield np.lib.stride_tricks.sliding_window_view(part, PASSAGE_TOKENS)[::step] @ WEIGHTS
