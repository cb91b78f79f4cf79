"""Quantization: methods that store numbers in fewer bits."""

from collections.abc import Mapping
from typing import Any

from core.compression.method import FileMethod, Method
from core.compression.quantize.codebook import CodebookQuantizer
from core.compression.quantize.half import FloatQuantizer
from core.compression.quantize.leveled import BinaryQuantizer, LogQuantizer, TernaryQuantizer
from core.compression.quantize.linear import LinearQuantizer
from core.compression.quantize.mixed import MixedQuantizer
from core.compression.quantize.onnx_file import OnnxQuantizer
from core.specs.base import Spec
from core.specs.codebook import CodebookQuantization
from core.specs.float import FloatQuantization
from core.specs.levels import BinaryQuantization, LogQuantization, TernaryQuantization
from core.specs.linear import LinearQuantization
from core.specs.mixed import MixedQuantization
from core.specs.onnx_quantize import OnnxQuantization

QUANTIZE: Mapping[type[Spec], Method[Any]] = {
    LinearQuantization: LinearQuantizer(),
    MixedQuantization: MixedQuantizer(),
    LogQuantization: LogQuantizer(),
    TernaryQuantization: TernaryQuantizer(),
    BinaryQuantization: BinaryQuantizer(),
    CodebookQuantization: CodebookQuantizer(),
    FloatQuantization: FloatQuantizer(),
}
QUANTIZE_FILES: Mapping[type[Spec], FileMethod[Any]] = {OnnxQuantization: OnnxQuantizer()}
