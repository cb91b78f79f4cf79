"""How errors of weights count where a book of values is chosen, and which way of counting is best for each layer.

The Fisher information of a weight says what a small error costs. At 2 and 3 bits errors are not small, and the figure
of a single weight is noisy, so that books that follow it are sometimes worse than unweighted ones, most of all in
depth-wise layers. Several ways are tried, on samples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, get_args

from pydantic import BaseModel, JsonValue, ValidationError
from torch import Tensor

from core.compression.candidates import put_encodings
from core.compression.context import Context
from core.compression.quantize.few_values import Given
from core.compression.sensitivity import effort_for
from core.compression.yardstick import Yardstick, choosing_split
from core.errors import ModelpressError
from core.network.describe import describe
from core.network.encodings import Elementwise
from core.network.network import Network

# none: all alike. root: by the root of the information. full: by the information. smoothed: by its geometric mean with
# what its row and its column have on average.
Weighting = Literal["smoothed", "none", "root", "full"]
WEIGHTINGS: Final[tuple[Weighting, ...]] = get_args(Weighting)
# Weights on which no answer depends still lie somewhere: what is added, as a share of a layer's mean.
_LEAST_SHARE = 0.01
_TINY = 1e-30


def weigh_errors(information: Tensor, weighting: Weighting) -> Tensor | None:
    """How much each error counts, in doubles, in the shape of the information (outputs first); None for all alike."""
    if weighting == "none":
        return None
    found = information.double()
    if weighting == "root":
        found = found.sqrt()
    elif weighting == "smoothed":
        rows = found.flatten(1) if found.dim() > 1 else found.unsqueeze(1)
        spread = rows.mean(1, keepdim=True) * rows.mean(0, keepdim=True) / rows.mean().clamp_min(_TINY)
        found = (rows * spread).sqrt().reshape(information.shape)
    return found + _LEAST_SHARE * found.mean()


def choose_weightings(
    network: Network,
    givens: Sequence[Given],
    make: Callable[[Given, Weighting], Elementwise],
    context: Context,
) -> tuple[dict[str, Elementwise], dict[str, JsonValue]]:
    """Encodings by name of the parameter, each with the weighting of the least loss, layer after layer; and the plan.

    The loss is that of the whole network on the choosing split, with all layers encoded. Of a huge network only some
    layers are tried. A replay takes what was chosen.
    """
    chosen: dict[str, Weighting] = dict.fromkeys((each.candidate.name for each in givens), WEIGHTINGS[0])
    recorded = _recorded(context)
    chosen |= {name: kind for name, kind in recorded.items() if name in chosen}
    encodings = {each.candidate.name: make(each, chosen[each.candidate.name]) for each in givens}
    if context.recorded is None and givens:
        _descend(network, givens, (encodings, chosen), make, context)
    return encodings, {"weightings": dict[str, JsonValue](chosen)}


def _descend(
    network: Network,
    givens: Sequence[Given],
    state: tuple[dict[str, Elementwise], dict[str, Weighting]],
    make: Callable[[Given, Weighting], Elementwise],
    context: Context,
) -> None:
    """Put the better of all ways into both mappings of `state`, layer after layer."""
    encodings, chosen = state
    dataset = context.needed_dataset()
    size = network.inputs[0].shape[0] if network.inputs[0].shape else 1
    ways = len(WEIGHTINGS) - 1
    effort = effort_for(len(givens), ways * describe(network).macs, size if isinstance(size, int) else 1)
    yardstick = Yardstick(network, dataset, split=choosing_split(dataset), limit=effort.samples)
    least = yardstick.score(put_encodings(network, encodings)).loss
    for number, given in enumerate(givens[: effort.layers]):
        name = given.candidate.name
        for way, kind in enumerate(WEIGHTINGS[1:]):
            share = (number + way / ways) / len(givens)
            context.progress(0.3 + 0.1 * share, f"How errors of {given.candidate.path} count")
            tried = make(given, kind)
            loss = yardstick.score(put_encodings(network, {**encodings, name: tried})).loss
            if loss < least or math.isnan(least):
                least, encodings[name], chosen[name] = loss, tried, kind


class _Recorded(BaseModel):
    """What an earlier run has written into its plan."""

    weightings: dict[str, Weighting]


def _recorded(context: Context) -> Mapping[str, Weighting]:
    if context.recorded is None:
        return {}
    try:
        return _Recorded.model_validate(dict(context.recorded)).weightings
    except ValidationError as error:
        sentence = f"The plan does not say how {context.step} counted the errors of each layer."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error
