"""Texts to token ids, by a `tokenizer.json` of the library `tokenizers`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from core.data.cells import Cells
from core.data.columns import Array, Column, FileColumn, Rows, Spool
from core.errors import ModelpressError

MAX_BYTES = 256 * 2**20
Part = Literal["ids", "mask", "types", "positions"]
Ids = NDArray[np.int64]
# Label of a token that is not judged: padding, special tokens, all but the first token of a word.
IGNORED = -100
END_OF_TEXT = ("<|endoftext|>", "</s>", "<eos>", "[SEP]")


@final
class Encoder:
    """One tokenizer that cuts and pads every text to `length` tokens. Keeps what it encoded last.

    The parts of a text (ids, mask, types) are separate inputs of a network, which are read one after the other.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        self._tokenizer = load_tokenizer(path)
        self._tokenizer.enable_truncation(length)
        pad = next((t for t in ("[PAD]", "<pad>", *END_OF_TEXT) if self._tokenizer.token_to_id(t) is not None), None)
        self._tokenizer.enable_padding(
            length=length, pad_id=self._tokenizer.token_to_id(pad) if pad else 0, pad_token=pad or ""
        )
        self._last: tuple[Cells, bytes, list[Encoding]] | None = None

    def encode(self, cells: Cells, rows: Rows) -> list[Encoding]:
        """The encodings of some rows: of texts, or of lists of words."""
        key = rows.tobytes()
        if self._last is None or self._last[0] is not cells or self._last[1] != key:
            if cells.kind == "list":
                words = [_words(cells, int(row), found) for row, found in zip(rows, cells.lists(rows), strict=True)]
                with _reporting("fails on a text"):
                    encoded = self._tokenizer.encode_batch(words, is_pretokenized=True)
            else:
                texts = cells.texts(rows)
                with _reporting("fails on a text"):
                    encoded = self._tokenizer.encode_batch(texts)
            self._last = (cells, key, encoded)
        return self._last[2]


@final
class TokenColumn(Column):
    """One part of the tokens of texts, (n, length)."""

    is_made = True

    def __init__(self, cells: Cells, encoder: Encoder, part: Part) -> None:
        self.cells, self._encoder, self._part = cells, encoder, part
        self.shape, self.dtype = (len(cells), encoder.length), np.dtype(np.int64)

    def read(self, rows: Rows) -> Array:
        """The part of the rows (len(rows), length)."""
        found = np.zeros((len(rows), self.shape[1]), np.int64)
        for place, encoding in enumerate(self._encoder.encode(self.cells, rows)):
            found[place] = _part_of(encoding, self._part)
        return found

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The texts as they are."""
        return self.cells.contents(rows)


@final
class TagColumn(Column):
    """Labels of words, (n, length): at the first token of each word, `IGNORED` everywhere else."""

    is_made = True

    def __init__(self, words: Cells, tags: Cells, encoder: Encoder, names: tuple[str, ...]) -> None:
        self._words, self._tags, self._encoder = words, tags, encoder
        self._numbers = {name: number for number, name in enumerate(names)}
        self.shape, self.dtype = (len(tags), encoder.length), np.dtype(np.int64)

    def read(self, rows: Rows) -> Array:
        """The labels of the rows (len(rows), length); raises `invalid_data` where words and tags differ in number."""
        found = np.full((len(rows), self.shape[1]), IGNORED, np.int64)
        tags = self._tags.lists(rows)
        words = self._words.lists(rows)
        for place, encoding in enumerate(self._encoder.encode(self._words, rows)):
            if len(words[place]) != len(tags[place]):
                raise self._tags.fail(int(rows[place]), f"has {len(tags[place])} tags for {len(words[place])} words.")
            seen: set[int] = set()
            for token, word in enumerate(encoding.word_ids):
                if word is not None and word not in seen:
                    seen.add(word)
                    found[place, token] = self._number(int(rows[place]), tags[place][word])
        return found

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The tags as they are."""
        return self._tags.contents(rows)

    def _number(self, row: int, tag: Any) -> int:
        if isinstance(tag, int) and not isinstance(tag, bool):
            return tag
        if tag not in self._numbers:
            raise self._tags.fail(row, f"has the tag {tag!r}, which is none of the names of the classes.")
        return self._numbers[tag]


@final
class UncutTexts(Column):
    """Texts of which no tokenizer is known yet: they can be counted and compared, not read."""

    is_made = True

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.shape, self.dtype = (len(cells),), np.dtype(np.str_)

    def read(self, rows: Rows) -> Array:
        """The texts; raises `invalid_data` for what is no UTF-8."""
        return np.array(self.cells.texts(rows))

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The texts as they are."""
        return self.cells.contents(rows)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file; raises `invalid_data`."""
    if path.stat().st_size > MAX_BYTES:
        raise ModelpressError("invalid_data", f"The tokenizer has more than {MAX_BYTES:,} bytes.")
    with _reporting("cannot be read by `tokenizers`"):
        return Tokenizer.from_str(path.read_text("utf-8"))


def tokenise_whole(path: Path, cells: Cells, *, separated: bool) -> FileColumn:
    """The ids of all texts one after the other, in a file; an end-of-text token between texts that are `separated`."""
    tokenizer = load_tokenizer(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ends = [tokenizer.token_to_id(token) for token in END_OF_TEXT] if separated else []
    end = np.array([number for number in ends if number is not None][:1], np.int32).tobytes()
    spool = Spool()

    def parts() -> Iterator[bytes]:
        for row in range(len(cells)):
            text = cells.texts(np.array([row]))
            with _reporting(f"fails on the text in row {row}"):
                ids = tokenizer.encode(text[0], add_special_tokens=False).ids
            yield np.array(ids, np.int32).tobytes() + end

    spool.write(parts())
    return spool.column(np.int32, (spool.path.stat().st_size // 4,))


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """Turn what the library raises into `invalid_data`: nothing narrower than Exception, and panics, which are none."""
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:  # Panics of a Rust library are no Exception; others go on below.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelpressError("invalid_data", f"tokenizer.json {what}: {str(error)[:200]}") from error


def part_of_input(name: str) -> Part:
    """What of a text an input takes, by its name."""
    lowered = name.lower()
    if "mask" in lowered:
        return "mask"
    if "type" in lowered or "segment" in lowered:
        return "types"
    return "positions" if "position" in lowered else "ids"


def _part_of(encoding: Encoding, part: Part) -> Sequence[int]:
    if part == "ids":
        return list(encoding.ids)
    if part == "mask":
        return list(encoding.attention_mask)
    return list(encoding.type_ids) if part == "types" else range(len(encoding.ids))


def _words(cells: Cells, row: int, words: list[Any]) -> list[str]:
    if not all(isinstance(word, str) for word in words):
        raise cells.fail(row, "is no list of words.")
    return words
