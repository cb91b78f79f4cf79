"""The table of layers in a verdict: what each is stored as, and in how many bytes."""

from collections.abc import Mapping, Sequence

from torch import nn

from core.compression.method import Report
from core.description import LayerDescription
from core.network.describe import describe
from core.network.encodings import Dense, Encoding
from core.network.network import Network
from core.verdict import ItemisedBytes, LayerVerdict, Sensitivity

# What is told instead of an encoding of a layer that the result no longer has.
REMOVED = "removed"


def list_layers(original: Network, result: Network, reports: tuple[Report, ...]) -> tuple[LayerVerdict, ...]:
    """One row for each weight-bearing layer of the original, in graph order, then for each that is new in the result.

    A layer that the result lacks has 0 bytes, one that is new had 0. Share of time is measured later.
    """
    sensitivities = {name: found for report in reports for name, found in report.sensitivities.items()}
    old, new = (dict(network.graph.named_modules()) for network in (original, result))
    layers = {layer.name: layer for layer in describe(original).layers}
    weighty = (name for name, module in new.items() if any(True for _ in module.parameters(recurse=False)))
    if any(type(old.get(name)) is not type(new[name]) for name in weighty):
        # Another network: what bears a name of the original may be of another kind.
        layers |= {layer.name: layer for layer in describe(result).layers}
    return tuple(_row(layer, old.get(name), new.get(name), result, sensitivities) for name, layer in layers.items())


def _row(
    described: LayerDescription,
    old: nn.Module | None,
    new: nn.Module | None,
    result: Network,
    sensitivities: Mapping[str, Sensitivity],
) -> LayerVerdict:
    """What became of one layer; `old` and `new` are its modules, of which one may be None."""
    encodings: dict[str, Encoding] = {
        name: result.encodings.get(f"{described.name}.{name}") or Dense(parameter)
        for name, parameter in (new.named_parameters(recurse=False) if new is not None else ())
    }
    # Encoded or not, the weight's encoding names the layer's.
    main = encodings.get("weight") or next(iter(encodings.values()), None)
    shape, before = described.weight_shape, ""
    weights = [getattr(module, "weight", None) for module in (old, new)]
    if weights[0] is not None and weights[1] is not None and weights[0].shape != weights[1].shape:
        shape, before = tuple(weights[1].shape), _tell(weights[0].shape)
    return LayerVerdict(
        name=described.name,
        kind=described.kind,
        encoding=REMOVED if new is None else "float32" if main is None else main.name,
        shape=_tell(shape),
        shape_before=before,
        sensitivity=sensitivities.get(described.name, Sensitivity()),
        bytes_before=sum(parameter.numel() * 4 for parameter in old.parameters(recurse=False)) if old else 0,
        bytes=sum(_total(encoding.bytes()) for encoding in encodings.values()),
    )


def _tell(shape: Sequence[int]) -> str:
    return "×".join(str(size) for size in shape)


def _total(items: ItemisedBytes) -> int:
    return sum(items.model_dump().values())
