"""Every granularity of pruning on every structure: what a pruned network must be, or why a structure has none."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from core.compression.checks import check_step
from core.compression.context import Context
from core.compression.method import Report
from core.compression.prune import PRUNE
from core.errors import ModelpressError
from core.network.describe import describe
from core.network.encodings import Dense
from core.network.network import Network
from core.specs.base import Spec
from core.specs.mask_pruning import KernelPruning, MaskPruning, VectorPruning, WeightPruning
from core.specs.recipe import Constraints, Target
from core.specs.structured_pruning import ChannelPruning, LayerPruning
from tests.core.network.surgery.known import Known

# Nothing here needs data: what is weak is another question.
GRANULARITIES: Mapping[str, Spec] = {
    "weights": WeightPruning.model_validate({"keep": 0.5}),
    "n of m": WeightPruning(n=2, m=4),
    "blocks": WeightPruning.model_validate({"keep": 0.5, "block": (4, 4)}),
    "vectors": VectorPruning.model_validate({"keep": 0.5}),
    "kernels": KernelPruning.model_validate({"keep": 0.5}),
    "channels": ChannelPruning.model_validate({"keep": 0.5, "criterion": "l2"}),
    "layers": LayerPruning.model_validate({"keep": 0.5, "criterion": "even"}),
}

# What issue and benchmark show, by the name of a structure.
SHOWN: Mapping[str, str] = {
    "plain": "plain",
    "residual": "residual",
    "dense": "concatenation",
    "depthwise": "depthwise",
    "grouped": "grouped",
    "inverted": "inverted bottleneck",
    "excited": "squeeze and excitation",
    "unet": "U-Net",
    "transposed": "transposed",
    "split_shuffle": "channel shuffle",
    "vit": "ViT",
    "bert": "BERT",
    "gpt2": "GPT-2, tied embeddings",
    "llama": "grouped-query attention",
    "convnextv2": "ConvNeXt V2",
    "lstm": "LSTM",
}


@dataclass(frozen=True)
class Pruned:
    """A network and what was told of it."""

    network: Network
    report: Report


def prune(case: Known, spec: Spec) -> Pruned | str:
    """The pruned network, or the sentence that says why there is none."""
    capability = spec.requires(case.description)
    if not capability.ok:
        return capability.why or ""
    context = Context(
        step=spec.method,
        index=0,
        dataset=None,
        target=Target(),
        constraints=Constraints(),
        seed=0,
        emit=lambda message: None,
    )
    try:
        return Pruned(*PRUNE[type(spec)].apply(case.network, spec, context))
    except ModelpressError as error:
        if error.code != "unsupported_layer":
            raise
        return error.detail


def check_pruned(case: Known, spec: Spec, pruned: Pruned) -> None:
    """Raises AssertionError, or what `check_step` raises, unless the network is what its method promises."""
    before, after = case.network, pruned.network
    check_step(before, after, pruned.report, tuple(torch.cat([each, each])[:5] for each in case.inputs))
    assert after.inputs == before.inputs, "inputs are others"
    assert after.outputs == before.outputs, "outputs are others"
    assert after.metadata == before.metadata, "metadata are others"
    assert not pruned.report.findings, pruned.report.findings
    if isinstance(spec, MaskPruning):
        _check_masked(before, after, pruned.report)
    else:
        _check_smaller(case, after)


def _check_masked(before: Network, after: Network, report: Report) -> None:
    """Shapes and what stays are as they were, about half of the weights is zero, and less is stored."""
    whole = kept = stored = 0
    assert report.layers
    for layer in report.layers:
        name = f"{layer}.weight"
        old, new = before.graph.get_parameter(name), after.graph.get_parameter(name)
        assert torch.equal(new, torch.where(new != 0, old, 0.0)), f"{name} has other numbers"
        whole, kept = whole + old.numel(), kept + int((new != 0).sum())
        stored += sum((after.encodings.get(name) or Dense(new)).bytes().model_dump().values())
    assert 0.35 < kept / whole <= 0.6, f"{kept} of {whole} weights stay"
    # Of a float of 32 bits half a weight, and what says which.
    assert stored < 0.7 * 4 * whole, f"{stored} bytes are stored of {4 * whole}"


def _check_smaller(case: Known, after: Network) -> None:
    """Fewer parameters and multiply-adds; no shape is larger, and what is cut is cut out of the original."""
    before, old, new = case.network, case.description, describe(after)
    # The same weights run in blocks that share them, and all of them stay where one such block does.
    shared = len(before.graph.graph.find_nodes(op="call_module")) > len(old.layers)
    assert new.parameters < old.parameters or (shared and new.parameters == old.parameters)
    assert new.macs < old.macs
    weights = dict(before.graph.named_parameters(remove_duplicate=False))
    for name, weight in after.graph.named_parameters(remove_duplicate=False):
        sizes = zip(weight.shape, weights[name].shape, strict=True)
        assert all(now <= was for now, was in sizes), f"{name} has grown"
        assert bool(torch.isin(weight, weights[name]).all()), f"{name} has other numbers"
