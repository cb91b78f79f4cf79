"""The specs of the family `prune`."""

from core.specs.base import Spec
from core.specs.mask_pruning import KernelPruning, VectorPruning, WeightPruning
from core.specs.structured_pruning import ChannelPruning, LayerPruning

PRUNE: tuple[type[Spec], ...] = (WeightPruning, VectorPruning, KernelPruning, ChannelPruning, LayerPruning)
