"""The pooling of sentence-transformers: from one vector a token to one a text, as `modules.json` says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import JsonValue

Mode = Literal["cls", "mean", "max"]
OUTPUT = "sentence_embedding"
_MODES: Mapping[str, Mode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Pooling:
    """How a text's vectors become one (Reimers and Gurevych 2019, section 3), and whether its length becomes 1."""

    mode: Mode
    normalize: bool

    def pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One vector a text (n, d) of the hidden states (n, tokens, d) that the mask (n, tokens) keeps."""
        kept = mask.unsqueeze(-1).to(states.dtype)
        if self.mode == "cls":
            pooled = states[:, 0]
        elif self.mode == "mean":
            pooled = (states * kept).sum(1) / kept.sum(1).clamp_min(_SMALLEST)
        else:
            pooled = (states * kept + (kept - 1) * 1e9).amax(1)
        return pooled / pooled.square().sum(-1, keepdim=True).sqrt().clamp_min(_SMALLEST) if self.normalize else pooled


def read_pooling(modules: JsonValue, settings: Mapping[str, JsonValue]) -> Pooling | str:
    """The pooling that `modules.json` names, or why the network goes without it.

    `settings` are the contents of each module's `config.json` by its folder.
    """
    listed = [entry for entry in modules if isinstance(entry, dict)] if isinstance(modules, list) else []
    kinds = [str(entry.get("type", "")).rpartition(".")[2][:100] for entry in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        return f"it has the modules {', '.join(kinds)}"
    folder = str(listed[1].get("path", ""))
    found = settings.get(folder)
    if not isinstance(found, dict):
        return f"{folder[:100]}/config.json is not among the files"
    stated = found.get("pooling_mode")
    modes = [mode for name, mode in _MODES.items() if found.get(name) is True or stated == mode]
    others = [name for name, value in found.items() if name.startswith("pooling_mode_") and value is True]
    if len(modes) != 1 or any(name not in _MODES for name in others):
        return f"it pools by {', '.join(others)[:200] or str(stated)[:100]}"
    return Pooling(modes[0], normalize="Normalize" in kinds)
