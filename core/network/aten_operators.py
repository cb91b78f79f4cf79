"""The list of ATen calls that a `.pt2` file may make, and what each name means; nothing else is looked up."""

import operator
from collections.abc import Callable, Mapping

import torch

_OVERLOADS = """
_log_softmax.default _native_batch_norm_legit_no_training.default _softmax.default _to_copy.default
_unsafe_view.default abs.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_max_pool2d.default
add.Scalar add.Tensor add_.Scalar add_.Tensor addmm.default alias.default alpha_dropout.default amax.default
amin.default any.default any.dim arange.default arange.start arange.start_step argmax.default argmin.default
avg_pool1d.default avg_pool2d.default baddbmm.default batch_norm.default bitwise_and.Tensor bitwise_not.default
bitwise_or.Tensor bmm.default cat.default celu.default chunk.default clamp.default clamp.Tensor clamp_.default
clamp_max.default clamp_min.default clone.default concat.default constant_pad_nd.default contiguous.default
conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv_transpose1d.default
conv_transpose2d.input convolution.default cos.default cumsum.default detach.default detach_.default
diff.default div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode div_.Tensor dropout.default einsum.default
elu.default elu_.default embedding.default empty_like.default eq.Scalar eq.Tensor erf.default exp.default
expand.default expand_as.default feature_dropout.default flatten.using_ints flip.default floor.default
floor_divide.default full.default full_like.default gather.default ge.Scalar ge.Tensor gelu.default glu.default
group_norm.default gt.Scalar gt.Tensor hardsigmoid.default hardsigmoid_.default hardswish.default hardswish_.default
hardtanh.default hardtanh_.default index.Tensor index_select.default instance_norm.default layer_norm.default
le.Scalar le.Tensor leaky_relu.default leaky_relu_.default lift_fresh_copy.default linalg_vector_norm.default
linear.default log.default log1p.default log_sigmoid.default log_softmax.int logical_and.default
logical_not.default logical_or.default lt.Scalar lt.Tensor masked_fill.Scalar masked_fill.Tensor matmul.default
max.default max.dim max_pool1d.default max_pool2d.default max_pool2d_with_indices.default maximum.default
mean.default mean.dim min.default min.dim minimum.default mish.default mish_.default mm.default movedim.int
mul.Scalar mul.Tensor mul_.Scalar mul_.Tensor narrow.default native_group_norm.default native_layer_norm.default
ne.Scalar ne.Tensor neg.default new_full.default new_ones.default new_zeros.default ones.default ones_like.default
pad.default permute.default pixel_shuffle.default pixel_unshuffle.default pow.Scalar pow.Tensor_Scalar
pow.Tensor_Tensor prelu.default prod.dim_int reciprocal.default relu.default relu6.default relu6_.default
relu_.default remainder.Scalar repeat.default repeat_interleave.self_int reshape.default rms_norm.default
roll.default round.default rsqrt.default rsub.Scalar rsub.Tensor scalar_tensor.default
scaled_dot_product_attention.default select.int selu.default selu_.default sigmoid.default sigmoid_.default
sign.default silu.default silu_.default sin.default slice.Tensor softmax.int softplus.default split.Tensor
split.sizes split_with_sizes.default sqrt.default square.default squeeze.default squeeze.dim squeeze.dims stack.default
std.correction sub.Scalar sub.Tensor sub_.Tensor sum.default sum.dim_IntList sym_size.int t.default tanh.default
tanh_.default tile.default to.device to.dtype to.dtype_layout transpose.int tril.default triu.default
type_as.default unbind.int unflatten.int unfold.default unsqueeze.default upsample_bilinear2d.vec
upsample_nearest2d.vec var.correction view.default where.ScalarOther where.ScalarSelf where.self zeros.default
zeros_like.default _assert_tensor_metadata.default _assert_scalar.default sym_constrain_range_for_size.default
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
