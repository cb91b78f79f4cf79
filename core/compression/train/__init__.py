"""Training: what every method shares that learns, and the family `train`."""

from collections.abc import Mapping
from typing import Any

from core.compression.method import Method
from core.compression.train.finetune import Finetuner
from core.specs.base import Spec
from core.specs.train import Finetune

TRAIN: Mapping[type[Spec], Method[Any]] = {Finetune: Finetuner()}
