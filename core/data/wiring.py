"""From named columns to what each input of the network is fed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch

from core.data.cells import Cells
from core.data.columns import Array, Column, Rows, SameColumn, SliceColumn, WindowColumn
from core.data.images import ImageColumn
from core.data.labels import collect_names, encode_labels
from core.data.source import Raw, Source, tell
from core.data.tokens import Encoder, TagColumn, TokenColumn, UncutTexts, part_of_input, tokenise_whole
from core.data.transform import Transform, dtype_of
from core.description import ArrayNames, DatasetSpec, InputMapping, SplitArrays, TensorDescription
from core.errors import ModelpressError

# Tokens of a text or context of a language model whose input leaves it free.
FREE_CONTEXT = 128
MANY_TOKENS = 1 << 22
MOST_TOKENS = 65_536


@dataclass(frozen=True)
class Samples:
    """Samples with one a row: a column for each input, labels, and the other side of each pair."""

    columns: Mapping[str, Column]
    labels: Column | None
    pair: Mapping[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """Of each row the bytes that say whether two samples are the same."""
        parts = [column.contents(rows) for column in (*self.columns.values(), *self.pair.values())]
        return (b"".join(pieces) for pieces in zip(*parts, strict=True))


@final
@dataclass(frozen=True)
class Wiring:
    """Knows the inputs of the network, if there is one yet, and how columns become them.

    `longest` is the longest text that a network takes which leaves the length free.
    """

    source: Source
    spec: DatasetSpec
    inputs: tuple[TensorDescription, ...] | None
    tokenizer: Path | None
    longest: int = MOST_TOKENS

    def samples(self, arrays: SplitArrays, names: tuple[str, ...], classes: int | None) -> Samples:
        """The samples and labels of one split; raises `invalid_data`."""
        loaded = self._load_x(arrays.x)
        if self.spec.task == "language_modelling" and arrays.y is None:
            return self._text_to_predict(loaded)
        columns = self._columns(loaded)
        pair = {} if arrays.pair is None else self._columns(self._load_x(arrays.pair))
        labels = None
        if arrays.y is not None:
            raw = self.source.load(arrays.y)
            words = next((value for value in loaded.values() if isinstance(value, Cells)), None)
            labels = self._labels(raw, words, names, classes)
        return Samples(columns, labels, pair)

    def class_names(self, splits: Sequence[SplitArrays]) -> tuple[str, ...]:
        """The names of the classes: those of the spec, of the files, or those that the labels use."""
        if self.spec.label_names:
            return self.spec.label_names
        used = [arrays.y for arrays in splits if arrays.y is not None]
        for name in used:
            if name in self.source.label_names:
                return self.source.label_names[name]
        raws = [self.source.load(name) for name in dict.fromkeys(used)]
        return collect_names(raws, self.spec.task)

    def transform(self, name: str, column: Column) -> Transform:
        """How the rows of an input's column become its tensor."""
        mapping = self.mapping(name)
        if isinstance(column, ImageColumn):
            mapping = mapping.model_copy(update={"layout": "NHWC"})
        described = self.described(name)
        return Transform(mapping, self._dtype(name, column), 0 if described is None else described.batch_axis)

    def mapping(self, name: str) -> InputMapping:
        """The mapping of an input; a single one of another name suits every input."""
        given = self.spec.inputs
        mapping = given.get(name, InputMapping())
        if len(given) == 1 and not self._is_input(next(iter(given))):
            mapping = next(iter(given.values()))
        if mapping == InputMapping() and self.source.preprocessor is not None:
            return self.source.preprocessor
        return mapping

    def described(self, name: str) -> TensorDescription | None:
        """The input of the network with this name; None without a network."""
        return next((tensor for tensor in self.inputs or () if tensor.name == name), None)

    def _names(self, x: ArrayNames) -> list[str]:
        """The names of the inputs that arrays feed."""
        if self.inputs is not None:
            names = [tensor.name for tensor in self.inputs]
            mapped = self.spec.inputs if len(self.spec.inputs) > 1 else ()
            if unknown := sorted({*(x if isinstance(x, dict) else ()), *mapped} - set(names)):
                raise ModelpressError(
                    "invalid_data", f"The model has no input `{unknown[0]}`; its inputs are {', '.join(names)}."
                )
            return names
        if isinstance(x, dict):
            return list(x)
        return list(self.spec.inputs) or ["x"]

    def _is_input(self, name: str) -> bool:
        return self.inputs is None or self.described(name) is not None

    def _load_x(self, x: ArrayNames) -> dict[str, Raw]:
        """What each input is fed from. One array feeds one input; one text feeds all."""
        names = self._names(x)
        if isinstance(x, dict):
            if missing := [name for name in names if name not in x]:
                raise ModelpressError("invalid_data", f"No array is given for the input `{missing[0]}` of the model.")
            return {name: self.source.load(x[name]) for name in names}
        raw = self.source.load(x)
        is_text = isinstance(raw, Cells) and raw.kind != "image"
        if len(names) > 1 and not is_text and self.spec.task != "language_modelling":
            raise ModelpressError(
                "invalid_data",
                f"The model has {len(names)} inputs ({', '.join(names)}) and array `{tell(x)}` can feed one.",
                hint='Name an array for each input: "x": {"' + names[0] + '": "…", …}.',
            )
        return dict.fromkeys(names, raw)

    def _columns(self, loaded: Mapping[str, Raw]) -> dict[str, Column]:
        columns = {name: self._column(name, raw) for name, raw in loaded.items()}
        sizes = {len(column) for column in columns.values()}
        if len(sizes) > 1:
            told = ", ".join(f"{len(column):,} for `{name}`" for name, column in columns.items())
            raise ModelpressError("invalid_data", f"The inputs differ in the number of samples: {told}.")
        return columns

    def _column(self, name: str, raw: Raw) -> Column:
        if isinstance(raw, Column):
            return raw
        if not len(raw):
            raise ModelpressError("invalid_data", f"`{raw.name}` has no sample.")
        mapping = self.mapping(name)
        if raw.kind == "image":
            return ImageColumn(raw, mapping)
        if raw.kind == "list" and not _holds_words(raw):
            return encode_labels(raw, "regression", (), None)
        if self.tokenizer is None:
            return self._uncut(raw)
        return TokenColumn(raw, self._encoder, mapping.part or part_of_input(name))

    def _labels(self, raw: Raw, words: Cells | None, names: tuple[str, ...], classes: int | None) -> Column:
        if self.spec.task != "token_classification" or isinstance(raw, Column):
            return encode_labels(raw, self.spec.task, names, classes)
        if words is None or words.kind != "list":
            return encode_labels(raw, "regression", (), None)
        return self._uncut(raw) if self.tokenizer is None else TagColumn(words, raw, self._encoder, names)

    def _text_to_predict(self, loaded: Mapping[str, Raw]) -> Samples:
        """Windows of token ids, and as labels the token that follows each."""
        name, raw = next(iter(loaded.items()))
        main = next((name for name in loaded if self._part(name) == "ids"), name)
        tokens = raw if isinstance(raw, Column) else self._tokens(raw)
        if isinstance(tokens, UncutTexts):
            return Samples({main: tokens}, None)
        if len(tokens.shape) == 1:
            context = self._context(main, len(tokens))
            count = (len(tokens) - 1) // context
            if count < 1:
                raise ModelpressError(
                    "invalid_data", f"The text is no longer than the context of {context} tokens of the model."
                )
            places = {"width": context, "step": context, "count": count}
            ids: Column = WindowColumn(tokens, start=0, **places)
            labels: Column = WindowColumn(tokens, start=1, **places)
        else:
            ids, labels = SliceColumn(tokens, None, -1), SliceColumn(tokens, 1, None)
        return Samples({name: self._beside(name, ids) for name in loaded}, labels)

    def _context(self, name: str, tokens: int) -> int:
        """Without a network each token is a sample, unless they are very many."""
        if self.inputs is not None:
            return self._length(name)
        return 1 if tokens <= MANY_TOKENS else FREE_CONTEXT

    def _beside(self, name: str, ids: Column) -> Column:
        """What an input takes beside the ids: all of a window is text."""
        width = ids.shape[1]
        rows: dict[str, Array] = {
            "mask": np.ones(width, np.int64),
            "types": np.zeros(width, np.int64),
            "positions": np.arange(width, dtype=np.int64),
        }
        part = self._part(name)
        return ids if part == "ids" else SameColumn(rows[part], len(ids))

    def _part(self, name: str) -> str:
        return self.mapping(name).part or part_of_input(name)

    def _tokens(self, raw: Cells) -> Column:
        if self.tokenizer is None:
            return self._uncut(raw)
        return tokenise_whole(self.tokenizer, raw, separated=self.source.format != "text")

    def _uncut(self, raw: Cells) -> UncutTexts:
        """Texts without a tokenizer, which may still come with the model."""
        if self.inputs is not None:
            raise ModelpressError(
                "invalid_data",
                f"`{raw.name}` holds text, and there is no tokenizer.",
                hint="Upload the model's `tokenizer.json` with the data, or give token ids instead of text.",
            )
        return UncutTexts(raw)

    @cached_property
    def _encoder(self) -> Encoder:
        if self.tokenizer is None:
            raise ModelpressError("invalid_data", "Texts need a tokenizer.")
        name = next((tensor.name for tensor in self.inputs or () if self._part(tensor.name) == "ids"), "x")
        return Encoder(self.tokenizer, self._length(name))

    def _length(self, name: str) -> int:
        tensor = self.described(name)
        size = tensor.shape[-1] if tensor is not None and len(tensor.shape) > 1 else None
        return size if isinstance(size, int) else min(self.mapping(name).length or FREE_CONTEXT, self.longest)

    def _dtype(self, name: str, column: Column) -> torch.dtype:
        tensor = self.described(name)
        if tensor is None:
            is_text = isinstance(column, TokenColumn) or self.spec.task == "language_modelling"
            return torch.int64 if is_text else torch.float32
        return dtype_of(tensor)


def _holds_words(cells: Cells) -> bool:
    first = cells.lists(np.zeros(1, np.int64))[0]
    return bool(first) and isinstance(first[0], str)
