"""The numbers of bits that each layer can have, and what its weights take and lose at each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor

from core.compression.candidates import Candidate, put_encodings
from core.compression.quantize.templates import make_template
from core.network.encodings import AffineInteger, Dense, Encoding, put_on
from core.network.network import Network
from core.specs.mixed import FLOAT_BITS, SharedGrid

# Weights of a network whose roundings are all kept; of a larger one they are made again.
_KEPT_WEIGHTS: Final = 1 << 25
_TINY: Final = 1e-30


@dataclass(frozen=True)
class Width:
    """A layer with so many bits: bytes of its weights with scales, and their squared error over their squares."""

    bits: int
    bytes: int
    error: float


@final
class Widths:
    """Of each layer its widths, in ascending order; `FLOAT_BITS` stands for the weights as they are."""

    def __init__(
        self, network: Network, candidates: Sequence[Candidate], grid: SharedGrid, bits: Sequence[int], *, floats: bool
    ) -> None:
        """`floats` says whether a layer may stay as it is."""
        self.network = network
        self.candidates = {each.path: each for each in candidates}
        self.bits = (*sorted(bits), *([FLOAT_BITS] if floats else []))
        self._grid = grid
        self._keep = sum(each.weight.numel() for each in candidates) <= _KEPT_WEIGHTS
        self._kept: dict[tuple[str, int], AffineInteger] = {}
        self.table = {path: tuple(self._width(path, each) for each in self.bits) for path in self.candidates}

    @property
    def paths(self) -> tuple[str, ...]:
        """The layers, in graph order."""
        return tuple(self.candidates)

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(each.weight.numel() for each in self.candidates.values())

    def template(self, path: str, bits: int) -> AffineInteger:
        """The nearest integers to the weight of a layer."""
        if (path, bits) in self._kept:
            return self._kept[path, bits]
        candidate = self.candidates[path]
        made = make_template(candidate.layer, candidate.weight, self._grid.at(bits))
        if self._keep:
            self._kept[path, bits] = made
        return made

    def encode(self, chosen: Mapping[str, int]) -> Network:
        """A copy in which these layers have so many bits, each weight rounded to the nearest."""
        rounded = {path: bits for path, bits in chosen.items() if bits != FLOAT_BITS}
        encodings = {self.candidates[path].name: self.template(path, bits) for path, bits in rounded.items()}
        return put_encodings(self.network, encodings)

    def change(self, path: str, bits: int) -> Tensor:
        """What rounding adds to the weight of a layer."""
        return self._stored(path, bits).decode() - self.candidates[path].weight

    def other_bytes(self) -> int:
        """Bytes of all parameters that are no layer's weight here: biases, norms, layers that stay as they are."""
        total, seen = 0, {id(each.layer.get_parameter(each.parameter)) for each in self.candidates.values()}
        for name, parameter in self.network.graph.named_parameters(remove_duplicate=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += _count(self.network.encodings.get(name) or Dense(parameter))
        return total

    def _width(self, path: str, bits: int) -> Width:
        weight, stored = self.candidates[path].weight, self._stored(path, bits)
        error = (stored.decode() - weight).double().square().sum() / weight.double().square().sum().clamp_min(_TINY)
        return Width(bits, _count(stored), float(error))

    def _stored(self, path: str, bits: int) -> Encoding:
        candidate = self.candidates[path]
        before = self.network.encodings.get(candidate.name) or Dense(candidate.weight)
        return before if bits == FLOAT_BITS else put_on(before, self.template(path, bits))


def _count(encoding: Encoding) -> int:
    return sum(encoding.bytes().model_dump().values())
