"""ONNX operators of transformers: attention and rotary positions."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator, Result

_KNOWN = frozenset(
    {"is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softcap", "softmax_precision"}
)


def attend(
    call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *cache: Tensor | None
) -> Result:
    """Attention over (batch, heads, tokens, width), or (batch, tokens, heads·width) with the heads as attributes.

    `cache` are the keys and values of earlier tokens, and the lengths of those.
    """
    past_key, past_value, lengths = (*cache, None, None, None)[:3]
    if lengths is not None or call.outputs > 3:
        call.refuse("lengths of the cache, or the products of query and key, are asked for")
    if not call.attributes.keys() <= _KNOWN:
        call.refuse(f"it has the attributes {', '.join(sorted(call.attributes.keys() - _KNOWN))}")
    flat = query.dim() == 3
    if flat:
        query = _split(query, call.integer("q_num_heads", 1))
        key, value = (_split(each, call.integer("kv_num_heads", 1)) for each in (key, value))
    if past_key is not None and past_value is not None:
        key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
    present = (key, value)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if mask is not None and mask.shape[-1] < key.shape[2]:
        filler = False if mask.dtype == torch.bool else float("-inf")
        mask = F.pad(mask, (0, key.shape[2] - mask.shape[-1]), value=filler)
    if call.integer("is_causal", 0):
        past = 0 if past_key is None else past_key.shape[2]
        mask = _and_causal(mask, query.shape[2], key.shape[2], past)
    made = _scaled(call, query, key, value, mask)
    if flat:
        made = made.transpose(1, 2).flatten(2)
    return (made, *present)[: call.outputs] if call.outputs > 1 else made


def _scaled(call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scale = call.number("scale", 0.0) or None
    cap = call.number("softcap", 0.0)
    if not cap:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    scores = query @ key.transpose(2, 3) * (scale or query.shape[-1] ** -0.5)
    scores = cap * torch.tanh(scores / cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


def _split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def _and_causal(mask: Tensor | None, queries: int, keys: int, past: int) -> Tensor:
    causal = torch.ones(queries, keys, dtype=torch.bool).tril(past)
    if mask is None:
        return causal
    return mask & causal if mask.dtype == torch.bool else mask.masked_fill(~causal, float("-inf"))


def rotate(call: Call, x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor | None = None) -> Tensor:
    """RotaryEmbedding of (batch, heads, tokens, width) or (batch, tokens, heads·width)."""
    flat = x.dim() == 3
    x = _split(x, call.integer("num_heads", 1)) if flat else x
    if positions is not None:
        cosine, sine = cosine[positions], sine[positions]
    width = call.integer("rotary_embedding_dim", 0) or x.shape[-1]
    cosine, sine = (each[..., : width // 2].unsqueeze(1) for each in (cosine, sine))
    turned, kept = x[..., :width], x[..., width:]
    if call.integer("interleaved", 0):
        real, imaginary = turned[..., 0::2], turned[..., 1::2]
        pairs = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        turned = torch.stack(pairs, -1).flatten(-2)
    else:
        real, imaginary = turned.chunk(2, -1)
        turned = torch.cat((real * cosine - imaginary * sine, real * sine + imaginary * cosine), -1)
    made = torch.cat((turned, kept), -1)
    return made.transpose(1, 2).flatten(2) if flat else made


ATTENTION: Mapping[str, Operator] = {
    "Attention": Operator(attend),
    "RotaryEmbedding": Operator(rotate),
}
