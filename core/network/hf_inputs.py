"""The inputs that a model of `transformers` takes, and an example of each for tracing it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from core.errors import ModelpressError

# Not 0 or 1, which torch treats as special.
EXAMPLE_BATCH = 2
# Tokens, pixels and samples (one second) that a free size is traced with.
TOKENS, PIXELS, SAMPLES = 16, 224, 16_000
# Kinds whose windows keep torch reasoning for minutes where the size of images is free.
_SLOW_TO_FREE = ("swinv2",)
_MOST_PIXELS, _MOST_SAMPLES = 4096, 1_000_000


@dataclass(frozen=True)
class HfInput:
    """One input: sizes after the batch, and the names of those axes that may stay free."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int, ...]
    free: Mapping[int, str] = field(default_factory=dict)

    def example(self) -> torch.Tensor:
        """A tensor to trace with: noise, or ones, which every table has."""
        shape = (EXAMPLE_BATCH, *self.sizes)
        if self.dtype.is_floating_point:
            return torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return torch.ones(shape, dtype=self.dtype)


def inputs_of(model: nn.Module, config: Mapping[str, object]) -> tuple[HfInput, ...]:
    """The inputs of a model by its main input; raises `unsupported_graph` for others."""
    main = getattr(model, "main_input_name", None)
    if main == "pixel_values":
        return (_images(config),)
    if main in ("input_values", "input_features"):
        return (_sound(main, config),)
    if main == "input_ids":
        return _texts(model, config)
    raise ModelpressError("unsupported_graph", f"Models with the main input {str(main)[:50]} are not read.")


def _texts(model: nn.Module, config: Mapping[str, object]) -> tuple[HfInput, ...]:
    """Token ids, the mask, and the types of tokens where the model tells sentences apart."""
    taken = inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask"]
    types = config.get("type_vocab_size", 2 if config.get("model_type") in ("bert", "electra", "albert") else 0)
    if isinstance(types, int) and types > 1:
        names.append("token_type_ids")
    return tuple(HfInput(name, torch.int64, (TOKENS,), {1: "sequence"}) for name in names if name in taken)


def _images(config: Mapping[str, object]) -> HfInput:
    stated = config.get("image_size", PIXELS)
    sides = stated if isinstance(stated, (list, tuple)) else [stated, stated]
    height, width = (_bounded(side, _MOST_PIXELS) for side in (sides[0], sides[-1]))
    channels = _bounded(config.get("num_channels", 3), 1024)
    free = {} if config.get("model_type") in _SLOW_TO_FREE else {2: "height", 3: "width"}
    return HfInput("pixel_values", torch.float32, (channels, height, width), free)


def _sound(name: str, config: Mapping[str, object]) -> HfInput:
    """Raw samples; or frames of a spectrogram, as many as the config states."""
    if config.get("model_type") == "audio-spectrogram-transformer":
        sizes = (config.get("max_length", 1024), config.get("num_mel_bins", 128))
    elif name == "input_features":
        frames = config.get("max_source_positions", 1500)
        sizes = (config.get("num_mel_bins", 80), 2 * frames if isinstance(frames, int) else frames)
    else:
        return HfInput(name, torch.float32, (SAMPLES,), {1: "samples"})
    return HfInput(name, torch.float32, tuple(_bounded(size, _MOST_SAMPLES) for size in sizes))


def _bounded(size: object, most: int) -> int:
    if not isinstance(size, int) or not 1 <= size <= most:
        raise ModelpressError("unsupported_graph", f"config.json states a size of an input of {str(size)[:50]}.")
    return size
