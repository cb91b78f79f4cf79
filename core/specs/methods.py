"""Every method there is, family by family; the one list that forms, docs, CLI and tests read."""

from core.specs.base import Spec
from core.specs.distill import DISTILL
from core.specs.prune import PRUNE
from core.specs.quantize import QUANTIZE
from core.specs.train import TRAIN

METHODS: tuple[type[Spec], ...] = (*QUANTIZE, *PRUNE, *DISTILL, *TRAIN)


def method_name(spec: type[Spec]) -> str:
    """The name that recipes use, such as `quantize.linear`."""
    return str(spec.model_fields["method"].default)
