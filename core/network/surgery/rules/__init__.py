"""The rules: what each operator and each layer says about the dimensions that go in and come out."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from core.network.encodings import ActivationGrid, DynamicGrid
from core.network.surgery.call import Call, Value, operator_name
from core.network.surgery.rules.norms import normalise_channels, normalise_groups, normalise_last
from core.network.surgery.rules.parts import (
    concatenate,
    fold_windows,
    gate,
    look_up,
    look_up_one,
    pad,
    shuffle_channels,
    shuffle_pixels,
    split,
    stack,
    take_position,
    take_slice,
    unbind,
    unfold_windows,
    unshuffle_pixels,
)
from core.network.surgery.rules.positions import (
    keep_positions,
    keep_some,
    keep_triangle,
    make_anew,
    pool,
    reduce,
    reduce_positions,
    sample_grid,
    slide,
)
from core.network.surgery.rules.products import (
    attend,
    combine_pointwise,
    multiply_and_add,
    multiply_matrices,
    repeat_interleaved,
    sum_letters,
)
from core.network.surgery.rules.recurrent import recur
from core.network.surgery.rules.shapes import (
    expand,
    fill,
    keep_shape,
    move,
    permute,
    repeat,
    reshape,
    reshape_like,
    squeeze,
    transpose,
    unflatten,
    unsqueeze,
)
from core.network.surgery.rules.weights import convolve, embed, linear, pass_layer, prelu

Rule = Callable[[Call], Value]

_CONVOLUTIONS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"
_UNCHANGED = (
    "dropout feature_dropout alpha_dropout contiguous clone to type_as alias detach lift_fresh_copy _to_copy positive "
    "zeros_like ones_like full_like empty_like fill zero"
)
_POOLS = (
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d"
)
# What torch does not say of itself that it works on each element by itself.
_POINTWISE = "where masked_fill rsub expand_as copy hardswish log_sigmoid floor_divide special_expit __and __or __xor"
_REDUCTIONS = (
    "mean sum amax amin var std var_mean std_mean prod linalg_vector_norm frobenius_norm norm logsumexp any all"
)

_BY_NAME: Mapping[str, Rule] = {
    name: rule
    for names, rule in {
        _CONVOLUTIONS: convolve,
        "linear": linear,
        "embedding": embed,
        "prelu": prelu,
        "batch_norm instance_norm": normalise_channels,
        "layer_norm rms_norm": normalise_last,
        "group_norm": normalise_groups,
        "matmul mm bmm mv dot": multiply_matrices,
        "addmm baddbmm": multiply_and_add,
        "scaled_dot_product_attention": attend,
        "einsum": sum_letters,
        _POINTWISE: combine_pointwise,
        "view reshape _unsafe_view view_copy flatten ravel": reshape,
        "view_as reshape_as": reshape_like,
        "unflatten": unflatten,
        "permute permute_copy": permute,
        "transpose t numpy_T swapaxes swapdims": transpose,
        "movedim moveaxis": move,
        "squeeze": squeeze,
        "unsqueeze": unsqueeze,
        "expand expand_copy broadcast_to": expand,
        "repeat tile": repeat,
        "repeat_interleave": repeat_interleaved,
        "cat concat": concatenate,
        "stack": stack,
        "split split_copy split_with_sizes chunk tensor_split unsafe_chunk unsafe_split": split,
        "glu": gate,
        "slice slice_copy narrow": take_slice,
        "select": take_position,
        "unbind": unbind,
        "index": look_up,
        "index_select": look_up_one,
        "pad constant_pad_nd": pad,
        "channel_shuffle native_channel_shuffle": shuffle_channels,
        "pixel_shuffle": shuffle_pixels,
        "pixel_unshuffle": unshuffle_pixels,
        "im2col": unfold_windows,
        "col2im": fold_windows,
        "unfold": slide,
        _UNCHANGED: keep_shape,
        "softmax log_softmax _softmax _log_softmax": keep_positions("softmax runs over it"),
        "cumsum cumprod logcumsumexp sort argsort": keep_positions("order matters"),
        "flip roll": keep_positions("order matters", "dims"),
        "tril triu": keep_triangle,
        "topk": keep_some,
        _REDUCTIONS: reduce,
        "max min argmax argmin": reduce_positions,
        _POOLS: pool,
        "grid_sampler grid_sampler_2d": sample_grid,
        "zeros ones full empty new_zeros new_ones new_full": fill,
        "sym_size sym_numel arange linspace scalar_tensor": make_anew,
    }.items()
    for name in names.split()
}

_BY_LAYER: tuple[tuple[type[nn.Module], Rule], ...] = (
    (nn.Linear, linear),
    (nn.modules.conv._ConvNd, convolve),
    (nn.modules.batchnorm._NormBase, normalise_channels),
    (nn.LayerNorm, normalise_last),
    (nn.RMSNorm, normalise_last),
    (nn.GroupNorm, normalise_groups),
    (nn.Embedding, embed),
    (nn.RNNBase, recur),
    (ActivationGrid, pass_layer),
    (DynamicGrid, pass_layer),
)


def find_rule(target: object) -> Rule | None:
    """The rule of an operator: by its name, or since torch says that it works on each element by itself."""
    rule = _BY_NAME.get(operator_name(target))
    if rule is None and torch.Tag.pointwise in getattr(target, "tags", ()):
        return combine_pointwise
    return rule


def find_layer_rule(layer: nn.Module) -> Rule | None:
    """The rule of a layer by its class."""
    return next((rule for kind, rule in _BY_LAYER if isinstance(layer, kind)), None)
