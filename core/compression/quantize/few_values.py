"""What `quantize.log2`, `.ternary`, `.binary` and `.codebook` share: weights alone get few values, layer by layer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError
from torch import Tensor

from core.compression.candidates import Candidate, find_candidates, put_encodings
from core.compression.context import Context
from core.compression.method import Method, Report
from core.compression.quantize.rounding import round_weights
from core.compression.sensitivity import keep_float, measure_layers, rank
from core.compression.yardstick import SQNR_OF_EQUAL_DB, Yardstick, choosing_split, input_batches
from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.findings import make_finding
from core.network.encodings import Dense, Elementwise, Encoding, Masked, put_on
from core.network.network import Network
from core.specs.few_values import FewValues
from core.verdict import Finding, Sensitivity

# Samples on which the limit of the quality is judged.
LIMIT_SAMPLES = 2000

S = TypeVar("S", bound=FewValues)


@dataclass(frozen=True)
class Given:
    """One weight to encode: whose it is, which numbers a mask keeps, and how much the answers depend on each."""

    candidate: Candidate
    mask: Tensor | None = None
    importance: Tensor | None = None


class ValueQuantizer(Method[S], ABC, Generic[S]):
    """Finds the values of each weight, rounds to them, and leaves out what does not get smaller or costs too much."""

    @abstractmethod
    def encode(self, given: Given, spec: S) -> Elementwise:
        """The weight at its best values, each number rounded to the nearest."""

    def weigh(
        self, network: Network, candidates: Sequence[Candidate], spec: S, context: Context
    ) -> Mapping[str, Tensor]:
        """How much the answers depend on each number, by name of the parameter; empty where that is not asked for."""
        del network, candidates, spec, context
        return {}

    def choose(
        self, network: Network, encoded: Sequence[tuple[Given, Elementwise]], spec: S, context: Context
    ) -> tuple[dict[str, Elementwise], dict[str, JsonValue]]:
        """The encodings by name of the parameter, once all of them are known, and what the plan must say of them."""
        del network, spec, context
        return {given.candidate.name: made for given, made in encoded}, {}

    def apply(self, network: Network, spec: S, context: Context) -> tuple[Network, Report]:
        """A copy with encoded weights; raises `unsupported_layer`, `non_finite`, `missing_data`."""
        candidates, left_out = _find(network, spec)
        encodings, useless, record = self._encode(network, candidates, spec, context)
        _tell_noise(encodings, candidates, context)
        sensitivities = _measure(network, encodings, context)
        chosen, findings = _hold(network, encodings, sensitivities, context)
        kept = sorted({each.path for each in candidates} - {_layer(name) for name in chosen})
        if useless:
            text = f"Encoded, these weights would take no fewer bytes and stay as they are: {', '.join(useless)}."
            findings = (*findings, make_finding("layers_kept_float", text))
        layers = tuple(sorted({_layer(name) for name in chosen}))
        context.progress(1.0, f"{len(layers)} layers quantized")
        plan: dict[str, JsonValue] = {
            "layers": list[JsonValue](layers),
            "kept_float": list[JsonValue](sorted({*left_out, *kept, *spec.keep_float})),
            "encodings": {name: encoding.name for name, encoding in sorted(chosen.items())},
            **record,
        }
        return put_encodings(network, chosen), Report(layers, sensitivities, findings, plan)

    def _encode(
        self, network: Network, candidates: Sequence[Candidate], spec: S, context: Context
    ) -> tuple[dict[str, Elementwise], list[str], dict[str, JsonValue]]:
        """Encodings by name of the parameter, the layers whose weights would not get smaller, and what was chosen."""
        importance = self.weigh(network, candidates, spec, context)
        encoded: list[tuple[Given, Elementwise]] = []
        useless: list[str] = []
        for number, candidate in enumerate(candidates):
            context.progress(0.2 + 0.1 * number / len(candidates), f"Values for {candidate.path}")
            before = network.encodings.get(candidate.name) or Dense(candidate.weight)
            mask = before.mask if isinstance(before, Masked) else None
            given = Given(candidate, mask, importance.get(candidate.name))
            made = self.encode(given, spec)
            if _bytes(put_on(before, made)) < _bytes(before):
                encoded.append((given, made))
            else:
                useless.append(candidate.path)

        templates, record = self.choose(network, encoded, spec, context)

        def samples() -> Iterator[tuple[Tensor, ...]]:
            return input_batches(network, _calibration(context), "calibration", limit=spec.rounding.samples)

        def progress(fraction: float, message: str) -> None:
            context.progress(0.4 + 0.25 * fraction, message)

        return round_weights(network, templates, spec.rounding, samples, progress), useless, record


def _find(network: Network, spec: FewValues) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """The weights to encode, and the layers left out."""
    candidates, left_out = find_candidates(network, spec.keep_float, takes=spec.takes)
    everything, _ = find_candidates(network, (), takes=spec.takes)
    between = frozenset(spec.between(tuple(each.path for each in everything)))
    chosen = tuple(each for each in candidates if each.path in between)
    if not chosen:
        text = "No layer is left to quantize once the first and the last stay float."
        raise ModelpressError("unsupported_layer", text)
    return chosen, (*left_out, *(each.path for each in candidates if each.path not in between))


def _calibration(context: Context) -> Dataset:
    dataset = context.needed_dataset()
    if not dataset.count("calibration"):
        raise ModelpressError("missing_data", "The data set has no calibration samples and none to draw them from.")
    return dataset


def _measure(network: Network, encodings: Mapping[str, Encoding], context: Context) -> dict[str, Sensitivity]:
    """What each layer costs alone, where there are samples to see it on."""
    names = {_layer(name) for name in encodings}
    if context.dataset is None or not names or not _can_choose(context.dataset):
        return {}
    return measure_layers(network, lambda layers: _put(network, encodings, layers), names, context, span=(0.65, 0.95))


def _hold(
    network: Network,
    encodings: dict[str, Elementwise],
    sensitivities: dict[str, Sensitivity],
    context: Context,
) -> tuple[dict[str, Elementwise], tuple[Finding, ...]]:
    """The encodings of the layers that need not stay float for `max_drop` to hold; as recorded in a replay."""
    limit, recorded = context.constraints.max_drop, _recorded_layers(context)
    if recorded is not None:
        return {name: each for name, each in encodings.items() if _layer(name) in recorded}, ()
    if limit is None or not sensitivities:
        return encodings, ()
    context.progress(0.95, "Trying whether the limit of the quality holds")
    dataset = context.needed_dataset()
    split = choosing_split(dataset)
    yardstick = Yardstick(network, dataset, split=split, limit=LIMIT_SAMPLES)
    kept = keep_float(lambda layers: _put(network, encodings, layers), rank(sensitivities), yardstick, limit)
    if not kept.layers:
        return encodings, ()
    text = (
        f"Quantizing every layer would cost {kept.drop_of_all:.4f} of quality on {yardstick.samples} {split} samples, "
        f"more than the limit of {limit:g}; with {', '.join(kept.layers)} in float it costs {kept.drop:.4f}."
    )
    left = {name: each for name, each in encodings.items() if _layer(name) not in kept.layers}
    return left, (make_finding("layers_kept_float", text),)


class _Recorded(BaseModel):
    """What an earlier run has written into its plan."""

    layers: frozenset[str]


def _recorded_layers(context: Context) -> frozenset[str] | None:
    if context.recorded is None:
        return None
    try:
        return _Recorded.model_validate(dict(context.recorded)).layers
    except ValidationError as error:
        sentence = f"The plan does not say which layers {context.step} chose."
        raise ModelpressError("invalid_request", sentence, pointer="/plan") from error


def _tell_noise(encodings: Mapping[str, Encoding], candidates: Sequence[Candidate], context: Context) -> None:
    """The signal to noise ratio of every weight."""
    for each in candidates:
        if each.name in encodings:
            weight = each.weight.double()
            noise = float((encodings[each.name].decode().double() - weight).square().sum())
            signal = float(weight.square().sum())
            ratio = 10 * math.log10(signal / noise) if noise and signal else SQNR_OF_EQUAL_DB
            context.metric("weight_sqnr", min(ratio, SQNR_OF_EQUAL_DB), unit="dB", layer=each.path)


def _put(network: Network, encodings: Mapping[str, Encoding], layers: frozenset[str]) -> Network:
    return put_encodings(network, {name: each for name, each in encodings.items() if _layer(name) in layers})


def _can_choose(dataset: Dataset) -> bool:
    return bool(dataset.count("validation") or dataset.count("calibration"))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _bytes(encoding: Encoding) -> int:
    return sum(encoding.bytes().model_dump().values())
