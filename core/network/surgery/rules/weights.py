"""Layers and calls with a matrix or a kernel: products, convolutions, embeddings."""

from typing import cast

from torch import nn

from core.network.surgery.call import Call, Site, Size, Value, fresh
from core.network.surgery.dimensions import Dimension, Mul, factor, fixed, resolve, size


def linear(call: Call) -> Value:
    """x (…, in), weight (out, in)."""
    x, weight = call.source(), call.dims("weight")
    call.tie(x[-1], weight[1])
    call.tie(weight[0], *(call.maybe("bias") or ()))

    def change(site: Site, size_: Size) -> None:
        layer = cast("nn.Linear", site.layer)
        layer.out_features, layer.in_features = size_(weight[0]), size_(weight[1])

    if call.layer is not None:
        call.edit(weight, change)
    return [*x[:-1], weight[0]]


def convolve(call: Call) -> Value:
    """x (N, in, …), weight (out, in / groups, taps …); transposed (in, out / groups, taps …)."""
    x, weight = call.source(), call.dims("weight")
    taps = len(weight) - 2
    channel = len(x) - taps - 1
    call.freeze(weight[2:], "a tap of a kernel")
    # Where a linear layer has made an image, they are rows of its weight.
    call.freeze(x[channel + 1 :], "a position in space")
    count = call.layer.groups if isinstance(call.layer, nn.modules.conv._ConvNd) else call.get("groups")
    groups = factor(weight[0], count)[0] if isinstance(count, int) and count > 1 else fixed(1)
    outer, inner = weight[0], resolve(Mul((groups, weight[1])))
    source, out = (outer, inner) if _is_transposed(call) else (inner, outer)
    call.tie(source, x[channel])
    call.tie(out, *(call.maybe("bias") or ()))
    _edit_convolution(call, source, out, groups)
    return [*x[:channel], out, *fresh(call.shape[channel + 1 :])]


def _is_transposed(call: Call) -> bool:
    if isinstance(call.layer, nn.modules.conv._ConvNd):
        return call.layer.transposed
    return "transpose" in call.name or bool(call.get("transposed"))


def _edit_convolution(call: Call, source: Dimension, out: Dimension, groups: Dimension) -> None:
    def change(site: Site, size_: Size) -> None:
        if call.layer is None:
            site.set_argument("groups", size_(groups))
            return
        layer = cast("nn.modules.conv._ConvNd", site.layer)
        layer.in_channels, layer.out_channels, layer.groups = size_(source), size_(out), size_(groups)

    if call.layer is not None or size(groups) > 1:
        call.edit([source, out, groups], change)


def embed(call: Call) -> Value:
    """Rows of weight (numbers, width) looked up by integers."""
    weight = call.dims("weight")
    x = call.source() if call.layer is not None else call.dims("indices")
    call.freeze(weight[:1], "rows are looked up by their number")

    def change(site: Site, size_: Size) -> None:
        cast("nn.Embedding", site.layer).embedding_dim = size_(weight[1])

    if call.layer is not None:
        call.edit(weight[1:], change)
    return [*x, weight[1]]


def prelu(call: Call) -> Value:
    """A slope for each channel, which is the second dimension."""
    x, slopes = call.source(), call.dims("weight")
    if len(x) > 1 and size(slopes[0]) > 1:
        call.tie(x[1], slopes[0])
    return x


def pass_layer(call: Call) -> Value:
    """A layer without weights along the dimensions of its input."""
    return list(call.source())
