"""Pruning: methods that set weights to zero and store the others, or take channels and layers away."""

from collections.abc import Mapping
from typing import Any

from core.compression.method import Method
from core.compression.prune.blocks import LayerPruner
from core.compression.prune.channels import ChannelPruner
from core.compression.prune.joined_plans import join_blocks, join_channels, join_masks
from core.compression.prune.masks import MaskPruner
from core.compression.prune.rounds import InRounds
from core.specs.base import Spec
from core.specs.mask_pruning import KernelPruning, VectorPruning, WeightPruning
from core.specs.structured_pruning import ChannelPruning, LayerPruning

_MASKS = InRounds(MaskPruner(), join_masks)

PRUNE: Mapping[type[Spec], Method[Any]] = {
    WeightPruning: _MASKS,
    VectorPruning: _MASKS,
    KernelPruning: _MASKS,
    ChannelPruning: InRounds(ChannelPruner(), join_channels),
    LayerPruning: InRounds(LayerPruner(), join_blocks),
}
"""The specs of the family `prune`."""
