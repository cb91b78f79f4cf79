"""Quantization: methods that store numbers in fewer bits."""

from collections.abc import Mapping

from core.compression.method import Method
from core.compression.quantize.linear import LinearQuantizer
from core.specs.quantize import LinearQuantization

QUANTIZE: Mapping[type[LinearQuantization], Method[LinearQuantization]] = {LinearQuantization: LinearQuantizer()}
