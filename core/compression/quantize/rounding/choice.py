"""Gives the weights of a network the codes that the recipe's method of rounding chooses."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from core.errors import ModelpressError
from core.network.encodings import Elementwise
from core.network.network import Network
from core.specs.rounding import Rounding

Inputs = tuple[Tensor, ...]
Samples = Callable[[], Iterable[Inputs]]
Progress = Callable[[float, str], None]


def round_weights(
    network: Network,
    templates: Mapping[str, Elementwise],
    rounding: Rounding,
    samples: Samples,
    progress: Progress,
) -> dict[str, Elementwise]:
    """Encodings on the same grids as `templates`, by the name of the parameter (`conv1.weight`), with better codes.

    `templates` are what rounding to the nearest gives: their scales, books and levels are fixed. `samples` begins anew
    with each call and is not called for `nearest`; `progress` takes 0 … 1 and is where a cancel is noticed.
    """
    if rounding.method == "nearest":
        return dict(templates)
    del network, samples, progress
    raise ModelpressError("invalid_request", f"The rounding {rounding.method} is not there yet; ask for `nearest`.")
