"""What speaks against a job because a file of it could not be written, known before anything runs."""

from collections.abc import Iterator, Mapping

from core.description import ModelDescription
from core.errors import ModelpressError
from core.resources.job import JobCreate, Objection
from core.services import estimates
from core.specs.file_sizes import MAX_WEIGHT_BYTES, refuse_result, refuse_weights
from core.specs.weight_bits import Bits

FLOAT_BYTES = 4


def object_to_sizes(asked: JobCreate, model: ModelDescription, chosen: Mapping[str, Bits]) -> Iterator[Objection]:
    """The original where it has to become ONNX first, and the result at the least that it can have; both block.

    `chosen` are the layers that the steps make smaller, with the bits of their weights.
    """
    original = FLOAT_BYTES * model.parameters
    if model.format != "onnx" and original > MAX_WEIGHT_BYTES:
        # The result is measured against it, in the same runtime.
        hint = "Upload it as ONNX, with its weights in files beside it."
        yield _blocks("/model", refuse_weights("The original becomes ONNX too, and its weights", original, hint))
        return
    least = estimates.estimate_bytes(asked, model, chosen).low
    if least > MAX_WEIGHT_BYTES:
        yield _blocks("/recipe", refuse_result(round(least)))


def _blocks(pointer: str, error: ModelpressError) -> Objection:
    return Objection(pointer=pointer, severity="blocks", code=error.code, text=f"{error.detail} {error.hint}")
