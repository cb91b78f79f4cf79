"""A checkpoint of a step of several parts: what earlier ones came to is kept beside the state of the present one."""

from collections.abc import Mapping
from typing import final

from pydantic import JsonValue
from torch import Tensor

from core.compression.context import StepCheckpoint

_CHAPTER, _RESULTS, _FACTS = "chapter", "results", "facts"
_INNER, _RESULT = "inner/", "result/"

Kept = tuple[dict[str, Tensor], dict[str, JsonValue]]


@final
class Chapter(StepCheckpoint):
    """The checkpoint of one part of several; `number` counts them from 0, `results` are those of earlier ones."""

    def __init__(self, whole: StepCheckpoint, number: int, results: Kept = ({}, {})) -> None:
        self._whole, self._number, self._results = whole, number, results

    def restore(self) -> Kept | None:
        """What this chapter kept; None where the step was last in another one, or at the beginning of this one."""
        found = self._whole.restore()
        if found is None or found[1].get(_CHAPTER) != self._number:
            return None
        tensors, facts = found
        inner = facts.get(_FACTS)
        return (_below(tensors, _INNER), dict(inner)) if isinstance(inner, Mapping) else None

    def due(self) -> bool:
        """As for the whole step."""
        return self._whole.due()

    def keep(self, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> None:
        """Keep this chapter's state beside the results of earlier ones."""
        inner = {_INNER + name: tensor for name, tensor in tensors.items()}
        self._write(inner, {_FACTS: dict(facts)})

    def begin(self) -> None:
        """Keep the results of earlier chapters alone."""
        self._write({}, {})

    def _write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, JsonValue]) -> None:
        result_tensors, result_facts = self._results
        results = {_RESULT + name: tensor for name, tensor in result_tensors.items()}
        self._whole.keep({**tensors, **results}, {_CHAPTER: self._number, _RESULTS: result_facts, **facts})


def results_of(whole: StepCheckpoint) -> Kept | None:
    """What chapters that have ended came to; None where the first has not ended."""
    found = whole.restore()
    if found is None or found[1].get(_CHAPTER) == 0:
        return None
    tensors, facts = found
    results = facts.get(_RESULTS)
    return _below(tensors, _RESULT), dict(results) if isinstance(results, Mapping) else {}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
