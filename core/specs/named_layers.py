"""What specs ask of a described model: whether layers that are named exist, and which layers can be chosen."""

from collections.abc import Callable, Collection

from core.description import LayerDescription, ModelDescription


def tell_unknown(description: ModelDescription, **fields: Collection[str]) -> str | None:
    """The sentence about the first field that names a layer which the model does not have; None where all exist."""
    known = {layer.name for layer in description.layers}
    for field, named in fields.items():
        if unknown := sorted(set(named) - known):
            return f"{field} names no layer of this model: {', '.join(unknown)}."
    return None


def list_alone(description: ModelDescription, fits: Callable[[LayerDescription], bool]) -> tuple[str, ...]:
    """The layers that fit, in order; who shares a weight with another layer keeps it as it is and is left out."""
    shared = {layer.tied_to for layer in description.layers}
    return tuple(
        layer.name for layer in description.layers if fits(layer) and layer.name not in shared and layer.tied_to is None
    )
