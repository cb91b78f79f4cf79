"""Normalisation: over channels' own statistics, over the last dimensions, over groups of channels."""

from typing import cast

from torch import nn

from core.network.surgery.call import Call, Site, Size, Value
from core.network.surgery.dimensions import factor

_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def normalise_channels(call: Call) -> Value:
    """Batch norm and instance norm: each channel, the second dimension, by itself."""
    x = call.source()
    for name in _STATISTICS:
        call.tie(x[1], *(call.maybe(name) or ()))

    def change(site: Site, size_: Size) -> None:
        cast("nn.BatchNorm2d | nn.InstanceNorm2d", site.layer).num_features = size_(x[1])

    if call.layer is not None:
        call.edit([x[1]], change)
    if call.name == "instance_norm" or isinstance(call.layer, nn.modules.instancenorm._InstanceNorm):
        call.ledger.averaged += x[2:]
    return x


def normalise_last(call: Call) -> Value:
    """Layer norm and RMS norm over the last dimensions."""
    x = call.source()
    given = call.layer.normalized_shape if isinstance(call.layer, nn.LayerNorm | nn.RMSNorm) else None
    shape = given if given is not None else cast("list[int]", call.get("normalized_shape"))
    last = x[len(x) - len(shape) :]
    for name in ("weight", "bias"):
        for e, own in zip(last, call.maybe(name) or (), strict=False):
            call.tie(e, own)
    call.ledger.averaged += last

    def change(site: Site, size_: Size) -> None:
        cast("nn.LayerNorm | nn.RMSNorm", site.layer).normalized_shape = tuple(map(size_, last))

    if call.layer is None:
        call.edit_sizes("normalized_shape", last)
    else:
        call.edit(last, change)
    return x


def normalise_groups(call: Call) -> Value:
    """Group norm: channels are groups × channels of a group."""
    x = call.source()
    call.tie(x[1], *(call.maybe("weight") or ()), *(call.maybe("bias") or ()))
    count = call.layer.num_groups if isinstance(call.layer, nn.GroupNorm) else call.integer("num_groups")
    groups, inner = factor(x[1], count)
    call.ledger.averaged += [inner, *x[2:]]

    def change(site: Site, size_: Size) -> None:
        if call.layer is None:
            site.set_argument("num_groups", size_(groups))
            return
        layer = cast("nn.GroupNorm", site.layer)
        layer.num_groups, layer.num_channels = size_(groups), size_(x[1])

    call.edit([x[1]], change)
    return x
