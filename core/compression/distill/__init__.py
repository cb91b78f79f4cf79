"""Distillation: a network learns from one that answers better; which class carries out which spec."""

from collections.abc import Mapping
from typing import Any

from core.compression.distill.block_method import BlockMethod
from core.compression.distill.methods import FeatureMethod, LogitMethod
from core.compression.method import Method
from core.specs.base import Spec
from core.specs.distill import BlockDistillation, FeatureDistillation, LogitDistillation

DISTILL: Mapping[type[Spec], Method[Any]] = {
    LogitDistillation: LogitMethod(),
    FeatureDistillation: FeatureMethod(),
    BlockDistillation: BlockMethod(),
}
