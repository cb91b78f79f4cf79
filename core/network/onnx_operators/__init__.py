"""Each ONNX operator that is read, as plain torch."""

from collections.abc import Mapping

from core.network.onnx_operators.attention import ATTENTION
from core.network.onnx_operators.call import Operator
from core.network.onnx_operators.elementwise import ELEMENTWISE
from core.network.onnx_operators.functions import FUNCTIONS
from core.network.onnx_operators.indexing import INDEXING
from core.network.onnx_operators.layers import LAYERS
from core.network.onnx_operators.norms import NORMS
from core.network.onnx_operators.pooling import POOLING
from core.network.onnx_operators.quantized import QUANTIZED
from core.network.onnx_operators.recurrent import RECURRENT
from core.network.onnx_operators.reductions import REDUCTIONS
from core.network.onnx_operators.resizing import RESIZING
from core.network.onnx_operators.shapes import SHAPES

OPERATORS: Mapping[str, Operator] = {
    **ATTENTION,
    **ELEMENTWISE,
    **FUNCTIONS,
    **INDEXING,
    **LAYERS,
    **NORMS,
    **POOLING,
    **QUANTIZED,
    **RECURRENT,
    **REDUCTIONS,
    **RESIZING,
    **SHAPES,
}
