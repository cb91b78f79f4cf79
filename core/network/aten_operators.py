"""The list of ATen calls that a `.pt2` file may make, and what each name means; nothing else is looked up."""

import operator
from collections.abc import Callable, Mapping

import torch

_OVERLOADS = """
__and__.Scalar __and__.Tensor __or__.Tensor __xor__.Tensor _adaptive_avg_pool2d.default _adaptive_avg_pool3d.default
_assert_scalar.default _assert_tensor_metadata.default _conv_depthwise2d.default _embedding_bag.default
_log_softmax.default _native_batch_norm_legit.no_stats _native_batch_norm_legit_no_training.default _softmax.default
_to_copy.default _trilinear.default _unsafe_view.default _upsample_bicubic2d_aa.vec _upsample_bilinear2d_aa.vec
_weight_norm.default abs.default abs_.default acos.default acosh.default adaptive_avg_pool1d.default
adaptive_avg_pool2d.default adaptive_avg_pool3d.default adaptive_max_pool1d.default adaptive_max_pool2d.default
adaptive_max_pool3d.default add.Scalar add.Tensor add_.Scalar add_.Tensor addcdiv.default addcmul.default
addmm.default affine_grid_generator.default alias.default all.default all.dim alpha_dropout.default amax.default
amin.default aminmax.default any.default any.dim any.dims arange.default arange.start arange.start_step argmax.default
argmin.default argsort.default asin.default asinh.default atan.default atan2.default atanh.default avg_pool1d.default
avg_pool2d.default avg_pool3d.default baddbmm.default batch_norm.default bilinear.default bitwise_and.Tensor
bitwise_left_shift.Tensor bitwise_not.default bitwise_or.Tensor bitwise_right_shift.Tensor bitwise_xor.Tensor
bmm.default broadcast_tensors.default broadcast_to.default bucketize.Tensor cat.default cdist.default ceil.default
celu.default channel_shuffle.default chunk.default clamp.Tensor clamp.default clamp_.default clamp_max.default
clamp_max_.default clamp_min.default clamp_min_.default clone.default col2im.default column_stack.default
concat.default constant_pad_nd.default contiguous.default conv1d.default conv1d.padding conv2d.default conv2d.padding
conv3d.default conv3d.padding conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input
convolution.default copy.default cos.default cosh.default cosine_similarity.default count_nonzero.default
count_nonzero.dim_IntList cross.default cumprod.default cumsum.default deg2rad.default detach.default detach_.default
diag.default diag_embed.default diagonal.default diff.default div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode
div_.Scalar div_.Tensor dot.default dropout.default dstack.default einsum.default elu.default elu_.default
embedding.default embedding_bag.padding_idx empty_like.default eq.Scalar eq.Tensor erf.default erfc.default
exp.default exp2.default exp_.default expand.default expand_as.default expand_copy.default expm1.default
feature_dropout.default fill.Scalar fill.Tensor fill_.Scalar fill_.Tensor flatten.using_ints flip.default
fliplr.default flipud.default floor.default floor_.default floor_divide.default fmod.Scalar fmod.Tensor frac.default
frobenius_norm.dim full.default full_like.default gather.default ge.Scalar ge.Tensor gelu.default glu.default
grid_sampler.default grid_sampler_2d.default group_norm.default gru.input gt.Scalar gt.Tensor hardshrink.default
hardsigmoid.default hardsigmoid_.default hardswish.default hardswish_.default hardtanh.default hardtanh_.default
hstack.default im2col.default index.Tensor index_add.default index_copy.default index_fill.int_Scalar
index_put.default index_select.default instance_norm.default inverse.default isfinite.default isinf.default
isnan.default kron.default layer_norm.default le.Scalar le.Tensor leaky_relu.default leaky_relu_.default lerp.Scalar
lerp.Tensor lgamma.default lift_fresh_copy.default linalg_cross.default linalg_norm.default linalg_vector_norm.default
linear.default linspace.default log.default log10.default log1p.default log2.default log_sigmoid.default
log_softmax.int logaddexp.default logcumsumexp.default logical_and.default logical_not.default logical_not_.default
logical_or.default logical_xor.default logit.default logspace.default logsumexp.default lstm.input lt.Scalar lt.Tensor
masked_fill.Scalar masked_fill.Tensor masked_fill_.Scalar masked_fill_.Tensor masked_scatter.default matmul.default
max.default max.dim max_pool1d.default max_pool2d.default max_pool2d_with_indices.default max_pool3d.default
max_pool3d_with_indices.default maximum.default mean.default mean.dim meshgrid.default meshgrid.indexing min.default
min.dim minimum.default mish.default mish_.default mm.default moveaxis.int movedim.int mul.Scalar mul.Tensor
mul_.Scalar mul_.Tensor mv.default nan_to_num.default nanmean.default narrow.default native_channel_shuffle.default
native_group_norm.default native_layer_norm.default ne.Scalar ne.Tensor neg.default neg_.default new_full.default
new_ones.default new_zeros.default norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype numpy_T.default
ones.default ones_like.default outer.default pad.default pairwise_distance.default permute.default
permute_copy.default pixel_shuffle.default pixel_unshuffle.default positive.default pow.Scalar pow.Tensor_Scalar
pow.Tensor_Tensor pow_.Scalar prelu.default prod.default prod.dim_int rad2deg.default ravel.default reciprocal.default
reciprocal_.default reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default relu.default
relu6.default relu6_.default relu_.default remainder.Scalar remainder.Tensor repeat.default repeat_interleave.Tensor
repeat_interleave.self_int replication_pad1d.default replication_pad2d.default replication_pad3d.default
reshape.default reshape_as.default rms_norm.default rnn_relu.input rnn_tanh.input roll.default rot90.default
round.decimals round.default round_.default rrelu.default rsqrt.default rsqrt_.default rsub.Scalar rsub.Tensor
scalar_tensor.default scaled_dot_product_attention.default scatter.src scatter.value scatter_add.default
scatter_reduce.two select.int select_scatter.default selu.default selu_.default sgn.default sigmoid.default
sigmoid_.default sign.default signbit.default silu.default silu_.default sin.default sinc.default sinh.default
slice.Tensor slice_copy.Tensor slice_scatter.default softmax.int softplus.default softshrink.default sort.default
sort.stable special_expit.default split.Tensor split.sizes split_copy.Tensor split_with_sizes.default sqrt.default
sqrt_.default square.default square_.default squeeze.default squeeze.dim squeeze.dims squeeze_.dim stack.default
std.correction std.default std.dim std_mean.correction sub.Scalar sub.Tensor sub_.Scalar sub_.Tensor sum.default
sum.dim_IntList swapaxes.default swapdims.default sym_constrain_range_for_size.default sym_numel.default sym_size.int
sym_stride.int t.default take_along_dim.default tan.default tanh.default tanh_.default tensor_split.indices
tensor_split.sections threshold.default threshold_.default tile.default to.device to.dtype to.dtype_layout
topk.default transpose.int trapezoid.dx tril.default tril_indices.default triu.default triu_indices.default
true_divide.Tensor trunc.default type_as.default unbind.int unflatten.int unfold.default unsafe_chunk.default
unsafe_split.Tensor unsqueeze.default unsqueeze_.default upsample_bicubic2d.vec upsample_bilinear2d.default
upsample_bilinear2d.vec upsample_linear1d.vec upsample_nearest1d.vec upsample_nearest2d.default upsample_nearest2d.vec
upsample_nearest3d.vec upsample_trilinear3d.vec var.correction var.default var.dim var_mean.correction var_mean.dim
view.default view_as.default view_copy.default vstack.default where.Scalar where.ScalarOther where.ScalarSelf
where.self xlogy.Tensor zero.default zero_.default zeros.default zeros_like.default
"""

ATEN_NAMES = frozenset(f"torch.ops.aten.{overload}" for overload in _OVERLOADS.split())

_SIZE_OPERATORS: Mapping[str, Callable[..., object]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
    "_operator.mod": operator.mod,
    "_operator.neg": operator.neg,
    "_operator.eq": operator.eq,
    "_operator.ne": operator.ne,
    "_operator.le": operator.le,
    "_operator.ge": operator.ge,
    "_operator.lt": operator.lt,
    "_operator.gt": operator.gt,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
}


def resolve(name: str) -> torch._ops.OpOverload | Callable[..., object] | None:
    """What a call's name means, or None where it is not in the list."""
    if name in ATEN_NAMES:
        _, _, _, packet, overload = name.split(".")
        found = getattr(getattr(torch.ops.aten, packet), overload)
        return found if isinstance(found, torch._ops.OpOverload) else None
    return _SIZE_OPERATORS.get(name)
