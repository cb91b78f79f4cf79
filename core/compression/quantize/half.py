"""`quantize.float`: weights in floating-point numbers of 16 bits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, final

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from core.compression.candidates import Candidate, find_candidates, put_encodings
from core.compression.context import Context
from core.compression.method import Method, Report
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.encodings import Dense, Encoding, Half, put_on
from core.network.encodings.half import DTYPES, HalfType
from core.network.export_graph import is_shared
from core.network.network import Network
from core.specs.float import FloatQuantization
from core.verdict import Finding

_NAMED: Final = 5
# Of fewer biases the node that makes floats of them takes what is saved.
_FEWEST: Final = 32


@final
@dataclass(frozen=True)
class Loss:
    """Of the numbers of one weight: how many are beyond the largest, become zero, or lose bits for being tiny."""

    beyond: int
    flushed: int
    subnormal: int

    @classmethod
    def of(cls, weight: Tensor, dtype: HalfType) -> "Loss":
        """Counted at the nearest numbers of `dtype`."""
        rounded = weight.to(DTYPES[dtype]).float()
        small = (weight != 0) & (weight.abs() < torch.finfo(DTYPES[dtype]).tiny)
        flushed = small & (rounded == 0)
        return cls(int(rounded.isinf().sum()), int(flushed.sum()), int((small & (rounded != 0)).sum()))


@final
class FloatQuantizer(Method[FloatQuantization]):
    """The nearest numbers of 16 bits, where they are numbers."""

    def apply(self, network: Network, spec: FloatQuantization, context: Context) -> tuple[Network, Report]:
        """A copy with encoded weights; raises `unsupported_layer` and `non_finite`."""
        candidates, left_out = find_candidates(network, spec.keep_float, takes=spec.takes)
        encodings: dict[str, Encoding] = {}
        losses: dict[str, Loss] = {}
        kept = {*left_out, *spec.keep_float}
        for number, candidate in enumerate(candidates):
            context.progress(number / len(candidates), f"Rounding {candidate.path}")
            losses[candidate.path] = Loss.of(candidate.weight, spec.type)
            before = network.encodings.get(candidate.name) or Dense(candidate.weight)
            made = Half.of(candidate.weight, dtype=spec.type)
            smaller = _bytes(put_on(before, made)) < _bytes(before)
            if losses[candidate.path].beyond or not smaller:
                kept.add(candidate.path)
            else:
                encodings[candidate.name] = made
                encodings |= _bias(network, candidate, spec) if spec.biases else {}
        if not encodings:
            raise ModelpressError(
                "unsupported_layer", f"No weight fits into {spec.type} or would take fewer bytes in it than it does."
            )
        layers = tuple(sorted({name.rpartition(".")[0] for name in encodings}))
        context.progress(1.0, f"{len(layers)} layers stored as {spec.type}")
        plan: dict[str, JsonValue] = {
            "layers": list[JsonValue](layers),
            "kept_float": list[JsonValue](sorted(kept)),
            "type": spec.type,
            "losses": {path: asdict(loss) for path, loss in losses.items() if any(asdict(loss).values())},
        }
        return put_encodings(network, encodings), Report(layers, findings=_findings(losses, spec.type), plan=plan)


def _bias(network: Network, candidate: Candidate, spec: FloatQuantization) -> dict[str, Encoding]:
    """The bias of a layer by its name, where it has one of its own that fits, gets smaller, and is not encoded yet."""
    name, bias = f"{candidate.path}.bias", getattr(candidate.layer, "bias", None)
    if not isinstance(bias, nn.Parameter) or bias.numel() < _FEWEST or name in network.encodings:
        return {}
    if is_shared(network.graph, bias) or Loss.of(bias.detach(), spec.type).beyond:
        return {}
    return {name: Half.of(bias, dtype=spec.type)}


def _findings(losses: Mapping[str, Loss], dtype: HalfType) -> tuple[Finding, ...]:
    """What did not fit, and what vanished."""
    found = []
    beyond = {path: loss.beyond for path, loss in losses.items() if loss.beyond}
    if beyond:
        largest = f"{torch.finfo(DTYPES[dtype]).max:,.0f}" if dtype == "float16" else "its largest number"
        text = f"Weights beyond {largest} do not fit into {dtype}; these layers stay as they are: {_name(beyond)}."
        found.append(make_finding("float_overflow", text))
    flushed = {path: loss.flushed for path, loss in losses.items() if loss.flushed and not loss.beyond}
    if flushed:
        text = f"Weights that are too small for {dtype} have become zero in {_name(flushed)}."
        found.append(make_finding("float_underflow", text))
    return tuple(found)


def _name(counts: Mapping[str, int]) -> str:
    """Layers with the number of weights, the most first."""
    ordered = sorted(counts, key=lambda path: (-counts[path], path))
    named = ", ".join(f"{path} ({counts[path]:,})" for path in ordered[:_NAMED])
    return named if len(ordered) <= _NAMED else f"{named} and {len(ordered) - _NAMED} more"


def _bytes(encoding: Encoding) -> int:
    return sum(encoding.bytes().model_dump().values())
