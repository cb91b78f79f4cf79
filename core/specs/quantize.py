"""The family `quantize`: what it has."""

from core.specs.base import Spec
from core.specs.linear import LinearQuantization
from core.specs.onnx_quantize import OnnxQuantization

QUANTIZE: tuple[type[Spec], ...] = (LinearQuantization, OnnxQuantization)
