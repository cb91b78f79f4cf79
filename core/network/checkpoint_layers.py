"""Which layers a network may have in a checkpoint, and with what they are made again."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, JsonValue
from torch import nn

from core.errors import ModelpressError
from core.network.encodings import ActivationGrid, DynamicGrid
from core.network.encodings.activation import BYTE_BITS

_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
# By the layer's name: its class, and the attributes that it is made with.
_LAYERS: Mapping[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    kind.__name__: (kind, settings)
    for settings, kinds in (
        (_CONV, (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
        ((*_CONV, "output_padding"), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
        (("in_features", "out_features"), (nn.Linear,)),
        (_NORM, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
        (_NORM, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
        (("normalized_shape", "eps", "elementwise_affine"), (nn.LayerNorm, nn.RMSNorm)),
        (("num_groups", "num_channels", "eps", "affine"), (nn.GroupNorm,)),
        (("num_embeddings", "embedding_dim"), (nn.Embedding,)),
        (_RECURRENT, (nn.LSTM, nn.GRU)),
        ((*_RECURRENT, "nonlinearity"), (nn.RNN,)),
    )
    for kind in kinds
}
GRID_BITS = (4, 5, 6, 7, 8, 16)
# Without weights of its own, for what plain calls read.
_CONTAINER = "Module"
_GRID = "ActivationGrid"
_DYNAMIC = "DynamicGrid"
# Of a grid, where they hold.
_FLAGS = ("power_of_two", "signed")


class StoredLayer(BaseModel):
    """One layer: where it is, its class, and what it is made with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    kind: str
    settings: dict[str, JsonValue] = {}


def describe_layer(path: str, layer: nn.Module) -> StoredLayer:
    """A layer as plain data; raises `unsupported_graph` for one that is not in the list."""
    kind = type(layer).__name__
    if type(layer) is nn.Module:
        return StoredLayer(path=path, kind=_CONTAINER)
    if isinstance(layer, ActivationGrid):
        return StoredLayer(path=path, kind=_GRID, settings=_grid_settings(layer))
    if isinstance(layer, DynamicGrid):
        return StoredLayer(path=path, kind=_DYNAMIC)
    known = _LAYERS.get(kind)
    if known is None or known[0] is not type(layer):
        raise ModelpressError("unsupported_graph", f"A checkpoint cannot hold the layer {path}, a {kind}.", layer=path)
    return StoredLayer(path=path, kind=kind, settings={name: _plain(getattr(layer, name)) for name in known[1]})


def build_layer(stored: StoredLayer) -> nn.Module:
    """The layer without its numbers, on the device `meta`; raises `ValueError` for a class that is not in the list."""
    if stored.kind == _CONTAINER:
        return nn.Module()
    if stored.kind == _GRID:
        flags = {name: stored.settings.get(name) is True for name in _FLAGS}
        return ActivationGrid(1.0, 0, _bits(stored), **flags)
    if stored.kind == _DYNAMIC:
        return DynamicGrid()
    if stored.kind not in _LAYERS:
        raise ValueError(f"there is no layer {stored.kind[:50]!r}")
    kind, names = _LAYERS[stored.kind]
    if set(stored.settings) != set(names):
        raise ValueError(f"the layer {stored.path[:200]} is not described as a {stored.kind} is")
    return kind(**{name: _sequence(value) for name, value in stored.settings.items()}, device="meta")


def _grid_settings(grid: ActivationGrid) -> dict[str, JsonValue]:
    """What is not usual: a grid of 8 bits whose scale is any number has no settings."""
    bits: dict[str, JsonValue] = {} if grid.bits == BYTE_BITS else {"bits": grid.bits}
    return bits | {name: True for name in _FLAGS if getattr(grid, name)}


def _bits(stored: StoredLayer) -> int:
    bits = stored.settings.get("bits", BYTE_BITS)
    if bits not in GRID_BITS:
        raise ValueError(f"the grid {stored.path[:200]} has {bits!r} bits")
    return int(bits)


def _plain(value: object) -> JsonValue:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelpressError("unsupported_graph", f"A checkpoint cannot hold a layer with the setting {value!r}.")


def _sequence(value: JsonValue) -> object:
    """Sizes are tuples."""
    return tuple(value) if isinstance(value, list) else value
