"""The masked encoding: where the weights are that a mask keeps, and these in an encoding of their own."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast, final

import torch
from pydantic import JsonValue
from torch import Tensor, fx

from core.network.encodings.affine_integer import AffineInteger
from core.network.encodings.elementwise import Elementwise
from core.network.encodings.emission import Emission
from core.network.encodings.encoding import Encoding
from core.network.encodings.onnx_writer import OnnxWriter
from core.network.encodings.positions import Form, Positions
from core.network.encodings.trainable import TrainableWeight
from core.network.encodings.writer import V, Writer
from core.specs.composition import EncodingKind
from core.verdict import ItemisedBytes


@final
class Masked(Encoding):
    """`inner` where `mask` (booleans in the shape of the weight) is true, zero elsewhere.

    Masked over a codebook is Deep Compression (Han et al. 2016, arXiv 1510.00149) before its Huffman code.
    """

    def __init__(self, mask: Tensor, inner: Elementwise) -> None:
        if not inner.maskable:
            raise ValueError(f"{inner.name} has no zero that a mask could leave out")
        self.mask = mask
        self.inner = inner

    @cached_property
    def _positions(self) -> Positions:
        return Positions.of(self.mask.reshape(-1))

    @property
    def kind(self) -> EncodingKind:
        """`masked`."""
        return "masked"

    @property
    def kinds(self) -> tuple[EncodingKind, ...]:
        """Masked, then what is kept; dense numbers are not named."""
        return ("masked",) if self.inner.kind == "dense" else ("masked", self.inner.kind)

    @property
    def name(self) -> str:
        """Such as `8.0 % of codebook of 16`."""
        return f"{100 * float(self.mask.float().mean()):.1f} % of {self.inner.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the mask."""
        return tuple(self.mask.shape)

    def decode(self) -> Tensor:
        """The kept values, zero elsewhere."""
        return torch.where(self.mask, self.inner.decode(), 0.0)

    def project(self, weight: Tensor) -> Tensor:
        """Zero what the mask leaves out, and put the rest on its grid."""
        return torch.where(self.mask, self.inner.project(weight), 0.0)

    def trainable(self, weight: Tensor) -> "MaskedWeight":
        """What trains the kept values, under the mask."""
        return MaskedWeight(self.mask, self.inner.trainable(weight))

    def bytes(self) -> ItemisedBytes:
        """Kept values as their encoding counts them; the positions are indices."""
        items = self.inner.count(self._kept())
        items["indices"] = items.get("indices", 0) + self._positions.joined().numel()
        return ItemisedBytes(**items)

    def stored(self) -> dict[str, Tensor]:
        """Kept codes, positions, and what lies beside the codes."""
        positions = {"positions": self._positions.joined()}
        return {"": self.inner.store_codes(self._kept())} | positions | self.inner.stored_sides()

    def config(self) -> dict[str, JsonValue]:
        """The form of the positions, how many are kept, and the inner encoding's."""
        positions = self._positions
        return {
            "kind": "masked",
            "shape": list(self.shape),
            "form": positions.form,
            "position_bits": positions.codes.bits,
            "position_count": positions.codes.count,
            "inner": self.inner.config(),
        }

    def _kept(self) -> Tensor:
        return self.inner.codes[self.mask]

    def write(self, writer: Writer[V]) -> V:
        """Values, positions, and what scales them."""
        values = self.inner.write_codes(writer, self._kept())
        spread = self._positions.spread(writer, values, integer=self.inner.integer_values)
        return self.inner.finish(writer, writer.reshape(spread, self.shape))

    @property
    def has_kernel(self) -> bool:
        """Where the kept weights have one: zeros are integers too."""
        return self.inner.has_kernel

    def emit_onnx(self, emission: Emission) -> fx.Node:
        """The integers with zeros between them for a kernel, else as any encoding."""
        inner = self.inner
        if not (emission.fused and isinstance(inner, AffineInteger) and inner.has_kernel):
            return super().emit_onnx(emission)
        return inner.emit_kernel(emission, self.emit_integers(emission, inner))

    def emit_integers(self, emission: Emission, inner: AffineInteger) -> fx.Node:
        """The integers as onnxruntime's kernels take them, zeros where the mask is; `inner` is what is under it."""

        def write(writer: OnnxWriter) -> str:
            distances = inner.write_distances(writer, self._kept())
            spread = self._positions.spread(writer, distances, integer=True)
            return writer.reshape(inner.write_storage(writer, spread), self.shape)

        return emission.stored(self, write, inner.grid.storage)


def restore_mask(config: Mapping[str, JsonValue], stored: Tensor) -> Tensor:
    """The mask in the shape of the weight, from what `Masked` stored."""
    facts = cast("dict[str, Any]", config)
    form, shape = cast("Form", facts["form"]), torch.Size(facts["shape"])
    bits, count = facts["position_bits"], facts["position_count"]
    return Positions.split(form, shape.numel(), stored, bits=bits, count=count).mask().reshape(shape)


@final
class MaskedWeight(TrainableWeight):
    """A weight that is trained where it is kept and stays zero elsewhere."""

    def __init__(self, mask: Tensor, inner: TrainableWeight) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)
        self.inner = inner

    def forward(self) -> Tensor:
        """The inner weight under the mask; what is left out has no gradient."""
        weight: Tensor = self.inner()
        return torch.where(self.get_buffer("mask"), weight, 0.0)

    def encode(self) -> Masked:
        """The same mask over the inner encoding as it is now."""
        inner = self.inner.encode()
        if not isinstance(inner, Elementwise):
            raise TypeError("a mask lies over an elementwise encoding")
        return Masked(self.get_buffer("mask"), inner)
