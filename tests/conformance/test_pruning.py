"""Every granularity of pruning on every structure that is shown; `benchmarks/prune_structures.py` exports them too."""

import pytest

from tests.conformance.pruning_cases import GRANULARITIES, SHOWN, check_pruned, prune
from tests.core.network.surgery.known import known

NO_BLOCKS = "This network has no residual blocks or transformer layers, so that nothing can be left out."
ONE_BLOCK = "This network has only {}, and one has to stay, so that nothing can be left out."
NO_VECTORS = "No layer of a kind that prune.vectors takes is there: conv2d, conv3d, conv_transpose2d, conv_transpose3d."
NO_KERNELS = (
    "No layer of a kind that prune.kernels takes is there: conv1d, conv2d, conv3d, conv_transpose1d, "
    "conv_transpose2d, conv_transpose3d."
)
# What a structure does not have cannot be pruned, and a sentence says so.
WHY_NOT = {
    **{(name, "layers"): NO_BLOCKS for name in SHOWN},
    ("grouped", "layers"): ONE_BLOCK.format("same"),
    ("inverted", "layers"): ONE_BLOCK.format("expand.0 to project.1"),
    ("excited", "layers"): ONE_BLOCK.format("first.0 to excite"),
    **{(name, "vectors"): NO_VECTORS for name in ("bert", "gpt2", "llama", "lstm")},
    **{(name, "kernels"): NO_KERNELS for name in ("bert", "gpt2", "llama", "lstm")},
}
for name in ("residual", "vit", "bert", "gpt2", "llama", "convnextv2"):
    del WHY_NOT[name, "layers"]


@pytest.mark.parametrize("name", SHOWN)
def test_every_granularity_holds_or_says_why_not(name: str) -> None:
    for granularity, spec in GRANULARITIES.items():
        pruned = prune(known(name), spec)
        if (why := WHY_NOT.get((name, granularity))) is not None:
            assert pruned == why
        else:
            assert not isinstance(pruned, str), (granularity, pruned)
            check_pruned(known(name), spec, pruned)
