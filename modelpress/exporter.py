"""`modelpress.export`: one line from a user's own `nn.Module` to a file that the service takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.network.capture import Captured


def export(
    model: "nn.Module", example_inputs: "Tensor | Sequence[Tensor] | Mapping[str, Tensor]", path: Path | str
) -> "Captured":
    """Write `model` as `.pt2` or `.onnx`, by the name of `path`, with a free batch, and compare it with the module.

    The first dimension of each example is the batch. Raises `core.errors.ModelpressError` with the line of code.
    """
    # Torch takes seconds to load, and the command line does without it.
    from core.network.capture import capture  # noqa: PLC0415

    return capture(model, example_inputs, Path(path))
