"""The family `quantize`: what it has."""

from core.specs.base import Spec
from core.specs.codebook import CodebookQuantization
from core.specs.float import FloatQuantization
from core.specs.levels import BinaryQuantization, LogQuantization, TernaryQuantization
from core.specs.linear import LinearQuantization
from core.specs.mixed import MixedQuantization
from core.specs.onnx_quantize import OnnxQuantization

QUANTIZE: tuple[type[Spec], ...] = (
    LinearQuantization,
    MixedQuantization,
    LogQuantization,
    TernaryQuantization,
    BinaryQuantization,
    CodebookQuantization,
    FloatQuantization,
    OnnxQuantization,
)
