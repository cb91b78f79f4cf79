"""`prune.weights`, `prune.vectors` and `prune.kernels`: weights that go become zero, those that stay are stored."""

from collections.abc import Callable, Iterator, Mapping
from typing import final

from pydantic import JsonValue
from torch import Tensor, nn

from core.compression.candidates import Candidate, find_candidates, put_encodings
from core.compression.context import Context
from core.compression.matrices import PRODUCTS
from core.compression.method import Method, Report
from core.compression.prune.criteria import weigh
from core.compression.prune.curves import measure_curves, with_curves
from core.compression.prune.fitted_masks import MaskedWeight, fit_masks, is_fitted, put_weights
from core.compression.prune.mask_choice import Ranked, choose_within, masked, rank_units
from core.compression.sensitivity import measure_layers
from core.compression.yardstick import Inputs, input_batches
from core.errors import ModelpressError
from core.network.encodings import Elementwise, Encoding, Masked
from core.network.network import Network
from core.specs.mask_pruning import MaskPruning, VectorPruning, WeightPruning
from core.verdict import Sensitivity


@final
class MaskPruner(Method[MaskPruning]):
    """Ranks weights by a criterion and masks the weakest; what stays is fitted where the spec asks for it."""

    def apply(self, network: Network, spec: MaskPruning, context: Context) -> tuple[Network, Report]:
        """Mask the weights; raises `unsupported_layer`, `missing_data`, `non_finite`."""
        candidates, left_out = _find(network, spec)
        values = weigh(network, candidates, spec, context)
        context.progress(0.5, f"Ranking the weights of {len(candidates)} layers")
        ranked = rank_units(candidates, values, spec)
        masks, findings = choose_within(network, candidates, ranked, spec)
        found = {each.name: MaskedWeight(masks[each.name], each.weight * masks[each.name]) for each in candidates}
        updated = _updates(network, spec, context)
        if updated:
            found = _update(network, ranked, found, spec, context)
        of_layer = {each.path: each.name for each in candidates}

        def build(layers: frozenset[str]) -> Network:
            return put_weights(network, {of_layer[path]: found[of_layer[path]] for path in layers})

        sensitivities: dict[str, Sensitivity] = {}
        if context.dataset is not None and context.dataset.count("calibration"):
            sensitivities = measure_layers(network, build, of_layer, context, span=(0.7, 0.85))
            curves = measure_curves(network, _builder(network, ranked, spec, of_layer), of_layer, context, (0.85, 0.95))
            sensitivities = with_curves(sensitivities, curves)
        masks = {name: each.mask for name, each in found.items()}
        shares = {path: _share(masks[name]) for path, name in of_layer.items()}
        context.log(_tell(masks, left_out))
        report = Report(
            layers=tuple(of_layer),
            sensitivities=sensitivities,
            findings=findings,
            plan={
                "kept": dict[str, JsonValue](shares),
                "left_out": list[JsonValue](left_out),
                "update": "optimal_brain" if updated else "none",
            },
        )
        context.progress(1.0, f"{len(candidates)} layers pruned")
        return build(frozenset(of_layer)), report


def _updates(network: Network, spec: MaskPruning, context: Context) -> bool:
    """Whether what stays makes up for what goes; of inputs that are drawn only where that is asked for."""
    if spec.update != "auto":
        return spec.update == "optimal_brain"
    dataset, size = context.dataset, network.inputs[0].shape[0] if network.inputs[0].shape else 1
    least = size if isinstance(size, int) else 1
    if dataset is not None and not dataset.synthetic and dataset.count("calibration") >= least:
        return True
    context.log("There are no calibration samples for `update`: the weights that stay keep their values.")
    return False


def _update(
    network: Network,
    ranked: Mapping[str, Ranked],
    found: Mapping[str, MaskedWeight],
    spec: MaskPruning,
    context: Context,
) -> dict[str, MaskedWeight]:
    """The same shares of each weight with values, and mostly masks, by which layers answer as they did."""
    dataset = context.needed_dataset()
    shares = {name: each.share_of(found[name].mask) for name, each in ranked.items()}
    shares |= {name: spec.fixed_share(each.candidate.path) or shares[name] for name, each in ranked.items()}

    def samples() -> Iterator[Inputs]:
        return input_batches(network, dataset, "calibration", limit=spec.samples)

    def choose(name: str, worth: Tensor, done: float) -> Tensor:
        return ranked[name].by(worth, shares[name] ** done, spec)

    def progress(done: float, message: str) -> None:
        context.progress(0.5 + 0.2 * done, message)

    if kept := sorted(name.rpartition(".")[0] for name in ranked if not is_fitted(network, name)):
        context.log(f"The numbers of {', '.join(kept)} are encoded: those that stay keep their values.")
    return fit_masks(network, found, samples, progress, choose if spec.chooses_anew else None)


def _builder(
    network: Network, ranked: Mapping[str, Ranked], spec: MaskPruning, of_layer: Mapping[str, str]
) -> Callable[[str, float], Network]:
    """What masks one layer alone so that a share of it stays."""

    def build(path: str, share: float) -> Network:
        each = ranked[of_layer[path]]
        encoding = masked(each.candidate.weight, each.alone(share, spec))
        return put_encodings(network, {each.candidate.name: encoding})

    return build


def _find(network: Network, spec: MaskPruning) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """The weights to prune, and layers that could be pruned but for how they are called or stored."""
    found, left_out = find_candidates(network, spec.protect, takes=spec.takes)
    suited = [each for each in found if _suits(spec, each.layer)]
    chosen = tuple(each for each in suited if _can_mask(network.encodings.get(each.name)))
    if not chosen:
        raise ModelpressError("unsupported_layer", spec.nothing_left(protected=bool(spec.protect)))
    unmaskable = {each.path for each in suited} - {each.path for each in chosen}
    others = {path for path in left_out if _suits(spec, network.graph.get_submodule(path))}
    return chosen, tuple(sorted(others | unmaskable))


def _suits(spec: MaskPruning, layer: nn.Module) -> bool:
    """Whether a layer has what the spec removes; as `takes_layer` of the spec says it of a description."""
    if isinstance(spec, WeightPruning):
        return isinstance(layer, PRODUCTS)
    if not isinstance(layer, PRODUCTS) or isinstance(layer, nn.Linear):
        return False
    least = 2 if isinstance(spec, VectorPruning) else 1
    return len(layer.kernel_size) >= least and max(layer.kernel_size) > 1


def _can_mask(encoding: Encoding | None) -> bool:
    """Not where each channel has another zero."""
    return encoding is None or isinstance(encoding, Masked) or (isinstance(encoding, Elementwise) and encoding.maskable)


def _share(mask: Tensor) -> float:
    return round(float(mask.double().mean()), 6)


def _tell(masks: Mapping[str, Tensor], left_out: tuple[str, ...]) -> str:
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    text = f"{kept:,} of {total:,} weights stay ({kept / total:.1%}) in {len(masks)} layers"
    least = min(masks, key=lambda name: _share(masks[name]))
    text += f"; {least} keeps the least, {_share(masks[least]):.1%}."
    return text + (f" Left as they are: {', '.join(left_out)}." if left_out else "")
