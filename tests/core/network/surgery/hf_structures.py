"""Published families, tiny and with loud random weights."""

import warnings
from collections.abc import Callable

import torch
import transformers as hf
from torch import Tensor, nn

from tests.core.network.surgery.structures import Made

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


class Wrapped(nn.Module):
    """One tensor in, one tensor out."""

    def __init__(self, module: nn.Module, argument: str, answer: str, **options: object) -> None:
        super().__init__()
        self.module, self.argument, self.answer, self.options = module, argument, answer, options

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.module(**{self.argument: x}, **self.options), self.answer)


def _images(kind: type, config: object, size: int = 32) -> Callable[[], Made]:
    return lambda: (Wrapped(_quiet(kind, config), "pixel_values", "logits"), (torch.randn(3, 3, size, size),))


def _texts(kind: type, config: object, answer: str = "logits", **options: object) -> Callable[[], Made]:
    return lambda: (Wrapped(_quiet(kind, config), "input_ids", answer, **options), (torch.randint(0, 100, (3, 16)),))


def _quiet(kind: type, config: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(config)


TINY = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}

FAMILIES: dict[str, Callable[[], Made]] = {
    "bert": _texts(
        hf.BertForSequenceClassification,
        hf.BertConfig(vocab_size=100, max_position_embeddings=32, num_labels=3, **SMALL),
    ),
    "vit": _images(hf.ViTForImageClassification, hf.ViTConfig(image_size=32, patch_size=8, num_labels=10, **SMALL)),
    "convnextv2": _images(
        hf.ConvNextV2ForImageClassification,
        hf.ConvNextV2Config(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2, num_labels=10, image_size=32),
    ),
    "gpt2": _texts(
        hf.GPT2LMHeadModel,
        hf.GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, n_positions=32),
        use_cache=False,
    ),
    "llama": _texts(
        hf.LlamaForCausalLM,
        hf.LlamaConfig(
            vocab_size=100,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=2,
            intermediate_size=128,
            max_position_embeddings=32,
        ),
        use_cache=False,
    ),
    "swin": _images(
        hf.SwinForImageClassification,
        hf.SwinConfig(
            image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10
        ),
    ),
    "regnet": _images(
        hf.RegNetForImageClassification,
        hf.RegNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], groups_width=8, num_labels=10),
    ),
    "efficientnet": _images(
        hf.EfficientNetForImageClassification,
        hf.EfficientNetConfig(
            width_coefficient=0.25, depth_coefficient=0.3, image_size=64, hidden_dim=320, num_labels=10
        ),
        64,
    ),
    "segformer": _images(
        hf.SegformerForSemanticSegmentation,
        hf.SegformerConfig(
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 2, 4],
            decoder_hidden_size=16,
            num_labels=4,
        ),
        64,
    ),
    "poolformer": _images(
        hf.PoolFormerForImageClassification,
        hf.PoolFormerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=10),
        64,
    ),
    "distilbert": _texts(
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=32),
    ),
    "albert": _texts(
        hf.AlbertForSequenceClassification,
        hf.AlbertConfig(**{**TINY, "num_hidden_layers": 3}, embedding_size=16, max_position_embeddings=32),
    ),
    "qwen3": _texts(
        hf.Qwen3ForCausalLM,
        hf.Qwen3Config(**TINY, num_key_value_heads=2, head_dim=8, max_position_embeddings=32),
        use_cache=False,
    ),
    "gpt_neox": _texts(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**TINY, max_position_embeddings=32), use_cache=False),
}
