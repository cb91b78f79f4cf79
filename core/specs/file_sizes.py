"""What one ONNX file can hold, said in the same words before a job and in it."""

from core.errors import ModelpressError

# A protobuf cannot have 2 GiB; some room is left for the graph.
MAX_WEIGHT_BYTES = 2 * 1024**3 - 16 * 1024**2


def refuse_weights(what: str, size: int, hint: str) -> ModelpressError:
    """`graph_too_large` for weights of `size` bytes; `what` begins the sentence."""
    sentence = f"{what} have {size:,} bytes; an ONNX file holds at most {MAX_WEIGHT_BYTES:,}."
    return ModelpressError("graph_too_large", sentence, hint=hint)


def refuse_result(size: int) -> ModelpressError:
    """`graph_too_large` for a result with weights of `size` bytes."""
    hint = "Quantize more of the layers: those that stay float take four bytes a weight."
    return refuse_weights("The weights of the result", size, hint)
