"""Gives the weights of a network the codes that the recipe's method of rounding chooses."""

from collections.abc import Mapping
from typing import Any

from core.compression.layer_walk import Progress
from core.compression.quantize.rounding.adaround import Adaround
from core.compression.quantize.rounding.gptq import Gptq
from core.compression.quantize.rounding.rounder import Rounder
from core.compression.quantize.rounding.walk import Walk
from core.compression.relay import Samples
from core.network.encodings import AffineInteger, Elementwise
from core.network.network import Network
from core.specs.rounding import Rounding


def round_weights(
    network: Network,
    templates: Mapping[str, Elementwise],
    rounding: Rounding,
    samples: Samples,
    progress: Progress,
) -> dict[str, Elementwise]:
    """Encodings of the same bits as `templates`, by the name of the parameter (`conv1.weight`), with better codes.

    `templates` are what rounding to the nearest gives: their books and levels are fixed, and so are their scales, but
    where `rounding` searches those of rows. What is no product, is called twice or is stored as floats keeps them.
    `samples` begins anew with each call and is not called for `nearest`; `progress` takes 0 … 1 and is where a cancel
    is noticed.
    """
    found = dict(templates)
    if rounding.method == "nearest":
        return found

    def choose(template: Elementwise) -> Rounder[Any]:
        if rounding.method == "adaround" and isinstance(template, AffineInteger):
            return Adaround(rounding)
        return Gptq(rounding)

    walk = Walk(network, templates, choose, samples)
    for number, stage in enumerate(walk.stages):
        done = number / len(walk.stages)
        text = f"Rounding {', '.join(str(node.target) for node in stage.nodes)}"
        found |= walk.round(stage, lambda done=done, text=text: progress(done, text))  # type: ignore[misc]  # bound
    return found
