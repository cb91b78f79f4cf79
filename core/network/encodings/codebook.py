"""The codebook encoding: each weight is one of a few shared values (Han et al. 2016, arXiv 1510.00149, section 3)."""

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from core.network.encodings.elementwise import Elementwise, fill_table
from core.network.encodings.packing import bits_for
from core.network.encodings.trainable import TrainableWeight
from core.network.encodings.writer import Role, V, Writer
from core.specs.composition import EncodingKind

MOST_VALUES = 256
# Weights that are compared with all values of a book at once.
_CHUNK = 1 << 20


@final
class Codebook(Elementwise):
    """Indices into a book of 1 … 256 values: shape (values,), or (groups, values) for groups of channels of axis 0."""

    def __init__(self, indices: Tensor, book: Tensor) -> None:
        self.indices = indices
        self.book = book
        if book.dim() == 2 and indices.shape[0] % book.shape[0]:
            raise ValueError(f"{indices.shape[0]} channels are not divided into {book.shape[0]} groups")
        if not 1 <= book.shape[-1] <= MOST_VALUES:
            raise ValueError(f"a book has 1 to {MOST_VALUES} values, not {book.shape[-1]}")

    @classmethod
    def of(cls, weight: Tensor, book: Tensor) -> "Codebook":
        """The nearest value of the book for each weight."""
        rows = weight.detach().reshape(1 if book.dim() == 1 else book.shape[0], -1)
        found = [_nearest(row, values) for row, values in zip(rows, book.reshape(-1, book.shape[-1]), strict=True)]
        return cls(torch.stack(found).reshape(weight.shape), book.detach().float())

    def at(self, weight: Tensor) -> "Codebook":
        """The nearest values of the same book."""
        return Codebook.of(weight, self.book)

    @property
    def kind(self) -> EncodingKind:
        """`codebook`."""
        return "codebook"

    @property
    def name(self) -> str:
        """Such as `codebook of 16`, or `8 codebooks of 16`."""
        return f"codebook of {self._values}" if self.book.dim() == 1 else f"{self._groups} codebooks of {self._values}"

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return bits_for(self._values)

    @property
    def codes(self) -> Tensor:
        """The indices: uint8."""
        return self.indices

    @property
    def role(self) -> Role:
        """Indices."""
        return "indices"

    @property
    def integer_values(self) -> bool:
        """With several books the value of an index depends on its channel, so that `finish` looks it up."""
        return self.book.dim() == 2

    @property
    def _values(self) -> int:
        return self.book.shape[-1]

    @property
    def _groups(self) -> int:
        return self.book.shape[0] if self.book.dim() == 2 else 1

    def decode(self) -> Tensor:
        """book[index]."""
        return self.book.reshape(-1)[self._places()].reshape(self.shape)

    def _places(self) -> Tensor:
        """Of each weight, the place of its value in all books: int64, shape (weights,)."""
        rows = self.indices.reshape(self._groups, -1).long()
        return (rows + torch.arange(self._groups).unsqueeze(1) * self._values).reshape(-1)

    def trainable(self, weight: Tensor) -> "BookWeight":
        """The values of the book; which weight has which value stays."""
        del weight
        return BookWeight(self)

    def sides(self) -> dict[str, tuple[Role, Tensor]]:
        """The book, as it is looked up."""
        book = self.book if self.integer_values else fill_table(self.book, self.bits)
        return {"book": ("codebooks", book)}

    def config(self) -> dict[str, JsonValue]:
        """Shape, bits, values of a book."""
        return {"kind": "codebook", "shape": list(self.shape), "bits": self.bits, "values": self._values}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], codes: Tensor, sides: Mapping[str, Tensor]) -> "Codebook":
        """The same book."""
        return cls(codes, sides["book"][..., : config["values"]])

    def table(self, writer: Writer[V]) -> V:
        """The book; of several books the index from 1 on, so that a zero can say that there is no weight."""
        if self.integer_values:
            return writer.levels(1, 2**self.bits, integer=True)
        return writer.constant("book", "codebooks", fill_table(self.book, self.bits))

    def finish(self, writer: Writer[V], values: V) -> V:
        """Of several books, look up each channel's value in its group's."""
        if not self.integer_values:
            return values
        books = writer.zero_first(writer.constant("book", "codebooks", self.book), self._groups, integer=False)
        starts = writer.levels(0, self._groups, integer=True)
        steps = writer.multiply(starts, writer.levels(self._values + 1, 1, integer=True))
        rows = writer.settle(writer.reshape(values, (self._groups, -1)))
        places = writer.settle(writer.add(rows, writer.reshape(steps, (-1, 1))))
        return writer.reshape(writer.settle(writer.pick(writer.reshape(books, (-1,)), places)), self.shape)


def _nearest(weights: Tensor, book: Tensor) -> Tensor:
    """The index of the nearest value, the lower of two: uint8."""
    ordered, order = torch.sort(book.float())
    found = [
        torch.bucketize(part, (ordered[1:] + ordered[:-1]) / 2)
        for part in torch.split(weights.float().contiguous(), _CHUNK)
    ]
    return order[torch.cat(found)].to(torch.uint8)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, book: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.values = book.numel()
        return book.reshape(-1)[places]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        # Sums in doubles, in one order: the same bits each time.
        return torch.bincount(places, gradients[0].reshape(-1).double(), minlength=ctx.values).float(), None


@final
class BookWeight(TrainableWeight):
    """The values of a book; the gradient of a value is the sum over the weights that have it (section 3.3)."""

    def __init__(self, start: Codebook) -> None:
        super().__init__()
        self.book = nn.Parameter(start.book.detach().float().clone())
        self._start = start
        self.register_buffer("_places", start._places(), persistent=False)

    def forward(self) -> Tensor:
        """book[index]."""
        places = self.get_buffer("_places")
        found: Tensor = _LookUp.apply(self.book.reshape(-1), places)  # type: ignore[no-untyped-call]  # torch's
        return found.reshape(self._start.shape)

    def encode(self) -> Codebook:
        """The same indices, the book as it is now."""
        return Codebook(self._start.indices, self.book.detach().clone())
