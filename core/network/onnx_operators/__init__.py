"""Each ONNX operator that is read, as plain torch."""

from collections.abc import Mapping

from core.network.onnx_operators.call import Operator
from core.network.onnx_operators.elementwise import ELEMENTWISE
from core.network.onnx_operators.layers import LAYERS
from core.network.onnx_operators.reductions import REDUCTIONS
from core.network.onnx_operators.shapes import SHAPES

OPERATORS: Mapping[str, Operator] = {**ELEMENTWISE, **LAYERS, **REDUCTIONS, **SHAPES}
