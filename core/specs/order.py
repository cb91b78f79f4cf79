"""Whether the steps of a recipe can follow each other on a model, by the encodings that they put on its layers."""

from collections.abc import Mapping, Sequence

from core.description import ModelDescription
from core.specs.base import Spec
from core.specs.composition import EncodingKind, Follow, stack

Kinds = tuple[EncodingKind, ...]
_DENSE: Kinds = ("dense",)


def find_clash(
    steps: Sequence[Spec], model: ModelDescription, others: Mapping[str, ModelDescription]
) -> tuple[int, str] | None:
    """The first step that can encode none of its layers as earlier steps have left them, by position, and why."""
    kinds: dict[str, Kinds] = {}
    described = model
    for position, step in enumerate(steps):
        if step.replaces():
            kinds = {}
        layers = step.suits(described, others).layers if step.encodes is not None else ()
        refusals = [_put(step, kinds, layer) for layer in layers]
        if refusals and all(refusals):
            return position, refusals[0] or ""
        described = step.leaves(described, others)
    return None


def _put(step: Spec, kinds: dict[str, Kinds], layer: str) -> str | None:
    """Note that the step encodes the layer; the sentence that says why it cannot, where it cannot."""
    before = kinds.get(layer, _DENSE)
    if step.encodes is None:
        return None
    put = stack(before, step.encodes)
    if isinstance(put, Follow):
        return f"{step.method} cannot encode what earlier steps have encoded: {put.why}"
    if step.takes is not None and not set(before) <= step.takes:
        takes = ", ".join(sorted(step.takes))
        return f"{step.method} takes {takes} weights; earlier steps leave them {' in '.join(before)}."
    kinds[layer] = put
    return None
